"""A discriminator of patches: the trunk of an image discriminator with a head of its own (Ojha et al. 2021, sec. 3.2).

The trunk ends before the deepest block, where a place is what convolutions make of at most 3/8 of the side of an image;
the head judges each place by itself. Group or instance normalisation in the discriminator (group is the default) adds
to every place a little of the whole image, by its mean and variance. Knows nothing of latents or optimizers.
"""

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from genxfer.models.family import Family

JUDGE = "discriminator"


class PatchHead(nn.Conv2d):
    """Features [N C H W] -> a logit for each place [N 1 H W]; undecided at first, so that the trunk is not shaken."""

    def __init__(self, channels: int) -> None:
        super().__init__(channels, 1, kernel_size=1)
        nn.init.zeros_(self.weight)
        assert self.bias is not None
        nn.init.zeros_(self.bias)

    def judge(self, features: Tensor) -> Tensor:
        """Return the logits in float32, with a gradient for `features` and none for the head."""
        assert self.bias is not None
        return F.conv2d(features, self.weight.detach(), self.bias.detach()).float()


def patch_head(family: Family) -> PatchHead | None:
    """Return a head for the family's discriminator; None without one, or where its features have no places."""
    if JUDGE not in family.nets:
        return None
    blank = torch.zeros(1, family.shape.channels, family.shape.resolution_px, family.shape.resolution_px)
    with torch.no_grad():
        features = patch_features(family, blank.to(next(family.nets.parameters()).device))
    return PatchHead(features.shape[1]) if features.ndim == 4 else None


def patch_features(family: Family, images: Tensor) -> Tensor:
    """Return what the discriminator makes of `images` [N C H W] before its deepest block and its head."""
    features = images
    for group in family.layer_groups()[JUDGE][:-2]:
        for module in group.modules:
            features = module(features)
    return features
