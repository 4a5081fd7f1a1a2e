"""The loss terms between two reports, summed where they were computed: nothing waits for a GPU inside a step.

The engine adds each phase's terms and takes their means for the curves. A value that is not finite ends training here,
with its name. Part of a checkpoint, so that a resumed run reports the same numbers.
"""

import math
from collections.abc import Mapping

import torch
from torch import Tensor

from genxfer.errors import TrainingError

WATCHED_ONLY = "~"  # the mark of terms that are for the curves and not minimised


def minimised(terms: Mapping[str, Tensor]) -> Tensor:
    """Return the scalar to minimise: the sum of the terms that are not only watched."""
    return torch.stack([value.float() for name, value in terms.items() if not name.startswith(WATCHED_ONLY)]).sum()


class Losses:
    """Running sums and counts of named loss terms."""

    def __init__(self) -> None:
        self.sums: dict[str, Tensor] = {}
        self.counts: dict[str, int] = {}

    def add(self, terms: Mapping[str, Tensor], images_seen: int) -> None:
        """Add scalar terms of the step at `images_seen`; on a processor, raise TrainingError when one is not finite."""
        for name, value in terms.items():
            term, number = name.removeprefix(WATCHED_ONLY), value.detach().double()
            if number.device.type == "cpu" and not math.isfinite(number):
                raise diverged(term, number.item(), images_seen)
            self.sums[term] = self.sums[term] + number if term in self.sums else number
            self.counts[term] = self.counts.get(term, 0) + 1

    def means(self, images_seen: int) -> dict[str, float]:
        """Return the mean of each term since the last reset, by name; raises TrainingError when one is not finite."""
        means = {name: total.item() / self.counts[name] for name, total in sorted(self.sums.items())}
        for name, mean in means.items():
            if not math.isfinite(mean):
                raise diverged(name, mean, images_seen)
        return means

    def reset(self) -> None:
        """Start a new interval."""
        self.sums.clear()
        self.counts.clear()


def diverged(term: str, value: float, images_seen: int) -> TrainingError:
    """Return the error of a loss term that is not finite."""
    return TrainingError(
        f"The loss term {term!r} is {value} at images_seen {images_seen} ({images_seen / 1000:g} kimg): training has "
        "diverged. Try a lower lr, a longer warmup_kimg, or compute.precision=fp32."
    )
