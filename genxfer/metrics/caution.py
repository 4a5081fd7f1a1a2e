"""From where on a reader of the numbers has to be warned: the same on pages, model cards and in decisions.

Read without importing torch or numpy. Knows nothing of how a number was measured.
"""

import math
from collections.abc import Mapping
from typing import Any

FEW_TEST_IMAGES = 50  # below, a jackknife over them is a rough guess
WEAK_CHECK = 0.15  # of all samples: where so many more copies than chance makes would pass, little is ruled out
LITTLE_VARIETY = 0.5  # of the diversity of real images: with less, samples are plainly more alike than these
SIGNIFICANT_STANDARD_ERRORS = 2.0  # of a difference: nearer together, chance alone may explain it
MADE_WORSE = "Fine-tuning made it worse: the source model, as it was, comes closer to the test images."


def warnings(numbers: Mapping[str, Any]) -> tuple[str, ...]:
    """Return in sentences what the KID and the gain of metrics.json do not tell of the fine-tuned model."""
    worse = MADE_WORSE if made_worse(numbers) else ""
    return tuple(filter(None, (worse, say_variety(numbers.get("diversity"), numbers.get("diversity_real")))))


def made_worse(numbers: Mapping[str, Any]) -> bool:
    """Whether in metrics.json the source model, not fine-tuned, has clearly a lower KID than the fine-tuned one.

    A gain over training from scratch does not rule that out: both may be worse than the model that was there already.
    """
    kid, of_source = numbers.get("kid"), numbers.get("kid_source")
    if kid is None or of_source is None:
        return False
    errors = (numbers.get(f"{name}_standard_error") or 0.0 for name in ("kid", "kid_source"))
    return standard_errors_apart(kid, of_source, *errors) > SIGNIFICANT_STANDARD_ERRORS


def say_variety(diversity: float | None, of_real: float | None) -> str:
    """Return in a sentence that the samples are far more alike than real images; empty where they are not, or unknown.

    So are those of a model that has collapsed, or that copies.
    """
    if diversity is None or of_real is None or diversity >= LITTLE_VARIETY * of_real:
        return ""
    return (
        "The samples are far more alike than real images: among those that resemble the same training image, their "
        f"diversity is {diversity:.3g}, that of test images {of_real:.3g}."
    )


def standard_errors_apart(a: float, b: float, a_error: float, b_error: float) -> float:
    """Return a - b in units of their combined standard error, both taken as independent; infinite when that is 0."""
    error = math.hypot(a_error, b_error)
    if error == 0:
        return math.copysign(math.inf, a - b) if a != b else 0.0
    return (a - b) / error


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
