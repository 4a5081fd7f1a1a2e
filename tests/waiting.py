"""Waiting for what another process does: until it is so, and never longer than is said."""

import time
from collections.abc import Callable
from typing import TypeVar

T = TypeVar("T")


def until(look: Callable[[], T | None], limit_s: float) -> T:
    """Return the first answer of `look` that is not empty."""
    deadline_s = time.monotonic() + limit_s
    while time.monotonic() < deadline_s:
        if answer := look():
            return answer
        time.sleep(0.05)
    raise AssertionError(f"nothing within {limit_s} s")
