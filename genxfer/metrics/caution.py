"""From where on a reader of the numbers has to be warned: the same on pages, model cards and in decisions.

Read without importing torch or numpy. Knows nothing of how a number was measured.
"""

from collections.abc import Mapping
from typing import Any

FEW_TEST_IMAGES = 50  # below, a jackknife over them is a rough guess
WEAK_CHECK = 0.15  # of all samples: where so many more copies than chance makes would pass, little is ruled out


def is_weak_check(numbers: Mapping[str, Any]) -> bool:
    """Whether so few images were held out that the check for copies, in metrics.json, would have found only many."""
    allowed, held_out = (numbers.get(f"copies_{word}") for word in ("threshold", "heldout"))
    return allowed is not None and held_out is not None and rules_out_little(allowed, held_out)


def rules_out_little(allowed: float, held_out: float) -> bool:
    """Whether a check for copies that allows so large a share, of so large a one by chance, finds only many."""
    return allowed - held_out > WEAK_CHECK
