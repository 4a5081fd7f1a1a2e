"""Nets whose every layer answers with something, as after training, without the training."""

import torch

from genxfer.models.family import Family


def as_trained(family: Family, seed: int) -> Family:
    """Return `family` with every weight and statistic moved a little, in eval mode."""
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for tensor in family.nets.state_dict().values():
            if tensor.is_floating_point():
                tensor += 0.1 * torch.rand(tensor.shape, generator=generator)
    family.nets.eval()
    return family
