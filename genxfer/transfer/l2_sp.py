"""L2-SP (Li, Grandvalet & Davoine 2018): a pull back to the source model's weights, as strong on all of them.

Adds strength / 2 x |weights - source weights|^2 to the loss of the phase that moves the sampling nets, over all that
moves in it. What only judges, a discriminator, is free to change its mind, as in `ewc.py`. Stands between the engine,
which asks for the term, and `distance.py`. Knows nothing of families.
"""

from collections.abc import Collection

from torch import Tensor

from genxfer.models.family import Family, Step
from genxfer.transfer.distance import SourceDistance
from genxfer.transfer.method import Method


class L2SP(Method):
    """Every parameter moves; the phase of the sampling nets has a term of the method's name."""

    distance: SourceDistance

    def prepare(self, family: Family, seed: int, n_images: int, fresh: Collection[str] = ()) -> None:
        """Take note of the source weights."""
        self.distance = SourceDistance(family, fresh=fresh)

    def hold(self, family: Family, fixed_groups: dict[str, int]) -> None:
        """Let everything move."""
        super().hold(family, fixed_groups)
        self.distance.lay_out(family)

    def terms(self, family: Family, phase: str, real: Tensor, step: Step) -> dict[str, Tensor]:
        """Return strength / 2 x squared distance (Li et al. 2018, eq. 4), where the sampling nets move."""
        nets = next(one.nets for one in family.phases if one.name == phase)
        if not set(nets) & set(family.sampling_nets):
            return {}
        return {self.config.method: self.config.strength / 2 * self.distance.squared(family, nets)}
