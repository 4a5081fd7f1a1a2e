"""L2-SP (Li, Grandvalet & Davoine 2018): a pull back to the source model's weights, as strong on all of them.

Adds strength / 2 x |weights - source weights|^2 to the loss of every phase, over what moves in the phase's nets: the
sampling nets and all others, such as a discriminator or an encoder, which were pretrained as well. Stands between the
engine, which asks for the term, and `distance.py`. Knows nothing of families.
"""

from torch import Tensor

from genxfer.models.family import Family, Step
from genxfer.transfer.distance import SourceDistance
from genxfer.transfer.method import Method


class L2SP(Method):
    """Every parameter moves; each phase has the term `l2_sp`, or `l2_sp_<phase>` where there are several."""

    distance: SourceDistance

    def prepare(self, family: Family, seed: int) -> None:
        """Take note of the source weights."""
        self.distance = SourceDistance(family)

    def hold(self, family: Family, fixed_groups: dict[str, int]) -> None:
        """Let everything move."""
        super().hold(family, fixed_groups)
        self.distance.lay_out(family)

    def terms(self, family: Family, phase: str, real: Tensor, step: Step) -> dict[str, Tensor]:
        """Return strength / 2 x squared distance (Li et al. 2018, eq. 4)."""
        nets = next(one.nets for one in family.phases if one.name == phase)
        name = "l2_sp" if len(family.phases) == 1 else f"l2_sp_{phase}"
        return {name: self.config.strength / 2 * self.distance.squared(family, nets)}
