"""Elastic weight consolidation (Kirkpatrick et al. 2017), as Li et al. (2020) use it for generators of few images.

Adds strength / 2 x sum of F x (weight - source weight)^2 to the loss of the phase that moves the sampling nets, where F
is how much the source model relies on a weight (`fisher.py`). What only judges, a discriminator, is free to change its
mind. Stands between the engine, which asks for the term, and `distance.py`. Knows nothing of families.
"""

from torch import Tensor

from genxfer.models.family import Family, Step
from genxfer.transfer.distance import SourceDistance
from genxfer.transfer.fisher import fisher_information
from genxfer.transfer.method import Method


class EWC(Method):
    """Every parameter moves; the phase of the sampling nets has the term `ewc`."""

    distance: SourceDistance

    def prepare(self, family: Family, seed: int) -> None:
        """Take note of the source weights, and estimate how much the source model relies on each."""
        self.distance = SourceDistance(family, fisher_information(family, seed))

    def hold(self, family: Family, fixed_groups: dict[str, int]) -> None:
        """Let everything move."""
        super().hold(family, fixed_groups)
        self.distance.lay_out(family)

    def terms(self, family: Family, phase: str, real: Tensor, step: Step) -> dict[str, Tensor]:
        """Return strength / 2 x weighed squared distance (Li et al. 2020, eq. 4), where the sampling nets move."""
        nets = next(one.nets for one in family.phases if one.name == phase)
        if not set(nets) & set(family.sampling_nets):
            return {}
        return {"ewc": self.config.strength / 2 * self.distance.squared(family, nets)}
