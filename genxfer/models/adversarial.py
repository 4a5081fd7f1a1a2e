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
    fewest_images=2,
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
    every fourth row and column, which tell as much in a fraction of the time. A single image has none, and no term;
    of equal reals, whose own is nothing to be a share of, the term is 1.
    """
    if len(real) < 2:
        return {}
    rows = torch.stack([images.detach()[:, :, ::4, ::4].float() for images in (fake, real)])
    # Tensor.std is slow on N.
    of_fakes, of_reals = (rows - rows.mean(dim=1, keepdim=True)).square_().mean(dim=1).sqrt_().flatten(1).mean(dim=1)
    # One such batch would otherwise lift the mean of a report by thousands, and hide that the others have collapsed.
    return {"~fake_spread": torch.where(of_reals > 1e-6, of_fakes / of_reals, 1.0)}
