"""From where on a reader of the numbers has to be warned: the same on pages, model cards and in decisions.

Read without importing torch or numpy. Knows nothing of how a number was measured.
"""

from collections.abc import Mapping
from typing import Any

FEW_TEST_IMAGES = 50  # below, a jackknife over them is a rough guess
WEAK_CHECK = 0.15  # of all samples: where so many more copies than chance makes would pass, little is ruled out


def is_weak_check(numbers: Mapping[str, Any]) -> bool:
    """Whether so few images were compared that the check for copies, in metrics.json, would have found only many."""
    allowed, held_out = (numbers.get(f"copies_{word}") for word in ("threshold", "heldout"))
    near_allowed = numbers.get("memorization_threshold", 0.0)
    return allowed is not None and held_out is not None and rules_out_little(allowed, held_out, near_allowed)


def rules_out_little(allowed: float, held_out: float, near_allowed: float) -> bool:
    """Whether a check that allows so large a share of copies, of so large a one by chance, finds only many.

    So does one that lets all samples lie next to training images, which half of it cannot fail.
    """
    return allowed - held_out > WEAK_CHECK or near_allowed >= 1
