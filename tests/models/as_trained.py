"""Nets whose every layer answers with something, as after training, without the training."""

import torch

from genxfer.models.family import Family
from genxfer.models.latents import LatentMixture


def as_trained(family: Family, seed: int) -> Family:
    """Return `family` with every weight and statistic moved a little, in eval mode."""
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for tensor in family.nets.state_dict().values():
            if tensor.is_floating_point():
                tensor += 0.1 * torch.rand(tensor.shape, generator=generator)
    for net in family.nets.values():
        if isinstance(net, LatentMixture):  # of normal distributions far from each other
            count, latent_dim = net.means.shape
            means = 3 * torch.randn(count, latent_dim, generator=generator)
            net.hold(torch.full((count,), 1 / count), means, 0.5 * torch.eye(latent_dim).repeat(count, 1, 1))
    family.nets.eval()
    return family
