"""Whether a run is still worth going on with: losses and weights are numbers, the generator has not collapsed.

Asked at each report, with the means of the interval; what a family wants watched it says itself (`Family.watched`).
Knows weights by name, and nothing of nets.
"""

import logging
import math
from collections.abc import Mapping, Sequence

import torch
from torch import Tensor

from genxfer.errors import TrainingError
from genxfer.models.family import Watch

logger = logging.getLogger("genxfer.training")


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


def warn_of_unwatched(watched: Sequence[Watch], images: int) -> None:
    """Say in the log what a family watches and cannot see in backward passes of so many `images` each."""
    for watch in watched:
        if images < watch.fewest_images:
            logger.warning(
                "a backward pass of one process has %d image, too few to see whether %s: what the run draws has to be "
                "looked at, or finetune.batch, pretrain.batch or compute.micro_batch made larger",
                images,
                watch.meaning,
            )


def check_weights(weights: Mapping[str, Tensor], images_seen: int) -> None:
    """Raise DivergenceError when a weight is not finite: losses tell of those of the step before."""
    finite = [tensor.isfinite().all() for tensor in weights.values()]
    if not finite or torch.stack(finite).all():  # read at once, so that a GPU is waited for once
        return
    name = next(name for name, answer in zip(weights, finite, strict=True) if not answer)
    raise _diverged(f"The weight {name!r} is not finite", images_seen)


def not_finite(term: str, value: float, images_seen: int) -> DivergenceError:
    """Return the error of a loss term that is not finite."""
    return _diverged(f"The loss term {term!r} is {value}", images_seen)


def _diverged(finding: str, images_seen: int) -> DivergenceError:
    return DivergenceError(
        f"{finding} at images_seen {images_seen} ({images_seen / 1000:g} kimg): training has diverged. Try a lower lr, "
        "a longer warmup_kimg, or compute.precision=fp32."
    )
