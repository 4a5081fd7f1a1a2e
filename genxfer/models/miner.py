"""The miner (MineGAN; Wang et al. 2020): a small net before a generator, which chooses the latents it is given.

A generator that a miner has been trained for samples by itself: the miner is its layer group next to the latent. Knows
nothing of training.
"""

from collections import OrderedDict

import torch.nn.functional as F
from torch import Tensor, nn

SLOPE = 0.2  # of the LeakyReLU


class Miner(nn.Module):
    """Two layers around a skip: z [N Z] -> z [N Z], at first the identity, so that training starts from the source."""

    def __init__(self, latent_dim: int, width: int) -> None:
        super().__init__()
        self.hidden = nn.Linear(latent_dim, width)
        self.change = nn.Linear(width, latent_dim)
        nn.init.zeros_(self.change.weight)
        nn.init.zeros_(self.change.bias)

    def forward(self, z: Tensor) -> Tensor:
        """Return the latents [N Z] to draw from instead of z [N Z]."""
        chosen: Tensor = z + self.change(F.leaky_relu(self.hidden(z), SLOPE))
        return chosen


def mined(generator: nn.Sequential, latent_dim: int, width: int) -> nn.Sequential:
    """Return `generator` with a miner of `width` hidden units before it, its layer group `miner`; at 0, without."""
    if not width:
        return generator
    return nn.Sequential(OrderedDict([("miner", Miner(latent_dim, width)), *generator.named_children()]))
