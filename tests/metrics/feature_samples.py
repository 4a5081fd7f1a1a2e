"""Features to measure: plain Gaussians, and such as a net gives."""

import math

import torch
from torch import Tensor


def gaussian(n: int, dimensions: int, seed: int, shift: float = 0.0, scale: float = 1.0) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(n, dimensions, generator=generator, dtype=torch.float64) * scale + shift


def rectified(n: int, dimensions: int, seed: int, shift: float = 0.0) -> Tensor:
    """Features as a net gives them: float32, not negative, correlated."""
    mix = gaussian(dimensions, dimensions, seed=99) / math.sqrt(dimensions)
    return (gaussian(n, dimensions, seed, shift) @ mix + 0.2).clamp(0, 6).float()
