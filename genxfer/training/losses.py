"""The loss terms between two reports, summed where they were computed: nothing waits for a GPU inside a step.

The engine adds each phase's terms and takes their means, over all ranks, for the curves. Part of a checkpoint, so that
a resumed run reports the same numbers.
"""

import math
from collections.abc import Mapping

import torch
from torch import Tensor

from genxfer.training.distributed import World
from genxfer.training.health import not_finite

WATCHED_ONLY = "~"  # the mark of terms that are for the curves and not minimised


def minimised(terms: Mapping[str, Tensor]) -> Tensor:
    """Return the scalar to minimise: the sum of the terms that are not only watched."""
    first, *others = (value.float() for name, value in terms.items() if not name.startswith(WATCHED_ONLY))
    return sum(others, start=first)


class Losses:
    """Running sums and counts of named loss terms, of this rank."""

    def __init__(self, world: World) -> None:
        self.world = world
        self.sums: dict[str, float | Tensor] = {}  # see `_number`
        self.counts: dict[str, float] = {}

    def add(self, terms: Mapping[str, Tensor], images_seen: int, share: float = 1.0) -> None:
        """Add scalar terms of `share` of the step at `images_seen`.

        Alone on a processor, where looking costs nothing, raise DivergenceError at once when one is not finite; several
        ranks have to find out together, at the next report.
        """
        at_once = self.world.size == 1 and self.world.device.type == "cpu"
        for name, value in terms.items():
            term, number = name.removeprefix(WATCHED_ONLY), self._number(value)
            if at_once and not math.isfinite(number):
                raise not_finite(term, float(number), images_seen)
            self.sums[term] = self.sums.get(term, 0.0) + number * share
            self.counts[term] = self.counts.get(term, 0) + share

    def of_ranks(self) -> dict[str, Tensor]:
        """Return the sums of every rank [size], by term, the same on all ranks."""
        terms = sorted(self.sums)
        if not terms:
            return {}
        of_ranks = self.world.gather([torch.as_tensor(self.sums[term], dtype=torch.float64) for term in terms])
        columns = (column.clone(memory_format=torch.contiguous_format) for column in of_ranks.unbind(dim=1))
        return dict(zip(terms, columns, strict=True))

    def means(self) -> dict[str, float]:
        """Return the mean of each term over all ranks since the last reset, by name, the same on all ranks."""
        return {term: sums.mean().item() / self.counts[term] for term, sums in self.of_ranks().items()}

    def restore(self, sums: Mapping[str, Tensor], counts: Mapping[str, float]) -> None:
        """Take over this rank's part of what `of_ranks` returned; of another number of ranks, their mean."""
        self.reset()
        for term, of_ranks in sums.items():
            own = of_ranks[self.world.rank] if len(of_ranks) == self.world.size else of_ranks.mean()
            self.sums[term] = self._number(own)
        self.counts = dict(counts)

    def reset(self) -> None:
        """Start a new interval."""
        self.sums.clear()
        self.counts.clear()

    def _number(self, value: Tensor) -> float | Tensor:
        """Return `value` in float64: of a processor as a number, of a GPU as it comes, unread."""
        return value.item() if self.world.device.type == "cpu" else value.detach().to(self.world.device).double()
