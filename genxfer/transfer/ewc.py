"""Elastic weight consolidation (Kirkpatrick et al. 2017), as Li et al. (2020) use it for generators of few images.

Adds strength / 2 x sum of F x (weights - source weights)^2 to the loss of the phase that moves the sampling nets, where
F is how much the source model relies on a weight (`fisher.py`); save for F it is `l2_sp.py`. Knows nothing of families.
"""

from collections.abc import Collection

from genxfer.models.family import Family
from genxfer.transfer.distance import SourceDistance
from genxfer.transfer.fisher import fisher_information
from genxfer.transfer.l2_sp import L2SP


class EWC(L2SP):
    """L2-SP with a pull of its own on each weight (Li et al. 2020, eq. 4)."""

    def prepare(self, family: Family, seed: int, n_images: int, fresh: Collection[str] = ()) -> None:
        """Take note of the source weights, and estimate how much the source model relies on each."""
        self.distance = SourceDistance(family, fisher_information(family, seed), fresh)
