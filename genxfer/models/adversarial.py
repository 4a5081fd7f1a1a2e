"""What adversarial families watch: signs that the game between the two nets is over.

Thresholds lie far below what healthy runs show (EXPERIMENTS.md), so that they speak of the hopeless alone. Knows
nothing of nets.
"""

import torch
from torch import Tensor

from genxfer.models.family import Watch

COLLAPSED = Watch(
    ("fake_spread",),
    at_least=0.02,
    meaning="the generator has collapsed, it makes the same image from every z",
    advice="Try a lower lr, a larger batch, or another seed.",
)
SATURATED = Watch(
    ("discriminator_real", "discriminator_fake"),
    at_least=1e-3,
    meaning="the discriminator is always right and sure of it, the generator learns nothing from it",
    advice="Try more augmentation (augment), a larger model.r1_gamma where the family has it, or a lower lr.",
)


@torch.no_grad()
def spread(fake: Tensor, real: Tensor) -> dict[str, Tensor]:
    """Return, as a term to watch, how much images differ within a batch of fakes, as a share of how much reals do.

    Both [N C H W]; the measure is the standard deviation of a pixel over the batch, averaged over pixels: those of
    every fourth row and column, which tell as much in a fraction of the time. A single image has none, and no term.
    """
    if len(real) < 2:
        return {}
    of_fakes, of_reals = (_deviation(images[:, :, ::4, ::4].flatten(1).float()) for images in (fake, real))
    return {"~fake_spread": of_fakes / of_reals.clamp_min(1e-6)}


def _deviation(rows: Tensor) -> Tensor:
    """Return the standard deviation over N of each column of [N M], averaged over columns; Tensor.std is slow on N."""
    return (rows - rows.mean(dim=0)).square().mean(dim=0).sqrt().mean()
