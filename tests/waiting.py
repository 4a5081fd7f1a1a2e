"""Waiting for what another process does: until it is so, and never longer than is said."""

import time
from collections.abc import Callable
from typing import TypeVar

T = TypeVar("T")


def until(look: Callable[[], T | None], limit_s: float) -> T:
    """Return the first answer of `look` that is not empty."""
    began_s = time.monotonic()
    while (waited_s := time.monotonic() - began_s) < limit_s:
        if answer := look():
            return answer
        time.sleep(0.05 if waited_s < 5 else 0.3)  # a look may cost what is waited for its processor
    raise AssertionError(f"nothing within {limit_s} s")
