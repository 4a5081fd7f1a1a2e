"""Whether a run is still worth going on with: losses are numbers, the generator has not collapsed.

Asked at each report, with the means of the interval; what a family wants watched it says itself (`Family.watched`).
Knows nothing of nets.
"""

import math
from collections.abc import Mapping, Sequence

from genxfer.errors import TrainingError
from genxfer.models.family import Watch


class DivergenceError(TrainingError):
    """Training that cannot come to anything: going on from here would waste the rest of the budget."""


def check_finite(means: Mapping[str, float], images_seen: int) -> None:
    """Raise DivergenceError when a loss term is not finite."""
    for term, value in means.items():
        if not math.isfinite(value):
            raise not_finite(term, value, images_seen)


def check_watched(means: Mapping[str, float], watched: Sequence[Watch], images_seen: int) -> None:
    """Raise DivergenceError when what a family watches fell below its limit."""
    for watch in watched:
        if not all(term in means for term in watch.terms):
            continue
        value = sum(means[term] for term in watch.terms)
        if value < watch.at_least:
            raise DivergenceError(
                f"{' + '.join(watch.terms)} is {value:.3g} at images_seen {images_seen} ({images_seen / 1000:g} kimg), "
                f"below {watch.at_least:g}: {watch.meaning}. {watch.advice}"
            )


def not_finite(term: str, value: float, images_seen: int) -> DivergenceError:
    """Return the error of a loss term that is not finite."""
    return DivergenceError(
        f"The loss term {term!r} is {value} at images_seen {images_seen} ({images_seen / 1000:g} kimg): training has "
        "diverged. Try a lower lr, a longer warmup_kimg, or compute.precision=fp32."
    )
