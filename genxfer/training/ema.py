"""The averaged weights that are published: an exponential moving average of the sampling nets.

Updated by the engine after each step. Knows nothing of losses or files.
"""

import copy

import torch
from torch import Tensor, nn

from genxfer.models.family import Family

RAMP_UP_SHARE = 0.1  # early on, the half-life is this share of the images seen: the start is forgotten in time


def ema_decay(ema_kimg: float, images_seen: int, batch: int) -> float:
    """Return the weight that the average keeps in a step of `batch` images which ends at `images_seen`.

    Half-life min(ema_kimg, 10 % of the images seen so far), as in EDM (Karras et al. 2022); 0 keeps nothing.
    """
    half_life_images = min(ema_kimg * 1000, images_seen * RAMP_UP_SHARE)
    return 0.5 ** (batch / half_life_images) if half_life_images > 0 else 0.0


class EMA:
    """Averages of the sampling nets: of their parameters, and of the running statistics that belong to these.

    Statistics of the latest weights do not fit averaged ones: averaging them too lowered the KID by a tenth or more.
    """

    def __init__(self, family: Family) -> None:
        """Start from the family's present weights, on their device."""
        self.nets = nn.ModuleDict({name: copy.deepcopy(family.nets[name]) for name in family.sampling_nets})
        self.nets.eval().requires_grad_(False)
        latest = nn.ModuleDict({name: family.nets[name] for name in family.sampling_nets})
        pairs = list(zip(_tensors(self.nets), _tensors(latest), strict=True))
        self._averages = [average for average, _ in pairs if average.is_floating_point()]
        self._latest = [tensor for _, tensor in pairs if tensor.is_floating_point()]
        self._counters = [pair for pair in pairs if not pair[0].is_floating_point()]

    @torch.no_grad()
    def update(self, decay: float) -> None:
        """Move the averages towards the latest weights. Weights that stand still keep their bits."""
        torch._foreach_lerp_(self._averages, self._latest, 1.0 - decay)
        for copied, latest in self._counters:
            copied.copy_(latest)


def _tensors(nets: nn.Module) -> list[Tensor]:
    return [*nets.parameters(), *nets.buffers()]
