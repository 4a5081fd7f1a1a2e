"""The evidence lower bound that both autoencoder families maximise (Kingma & Welling 2014), in nats and in bits.

Pure functions of tensors, no nets: `vae.py` and `mlp.py` bring those. Pixels here are in [0, 1], the range of
likelihoods, not in the [-1, 1] in which a batch arrives.
"""

import math

import torch
import torch.nn.functional as F
from torch import Tensor

LEVELS = 255  # steps between the darkest and the brightest value of an 8-bit pixel


def kl_to_standard_normal(mean: Tensor, log_variance: Tensor) -> Tensor:
    """Return KL(N(mean, variance) || N(0, 1)) in nats, summed over Z [N] (Kingma & Welling 2014, appendix B)."""
    return 0.5 * (mean.square() + log_variance.exp() - 1 - log_variance).sum(dim=1)


def reparameterise(mean: Tensor, log_variance: Tensor, noise: Tensor) -> Tensor:
    """Return z [N Z] ~ N(mean, variance) as a differentiable function of both, given standard normal `noise`."""
    return mean + (0.5 * log_variance).exp() * noise


def gaussian_log_likelihood(pixels: Tensor, mean: Tensor, std: float) -> Tensor:
    """Return log N(pixels; mean, std^2) in nats [N]: a density over [0, 1]-scaled pixels, summed over C, H, W."""
    # What is the same for every pixel comes after the sum.
    squares = F.mse_loss(_rows(mean), _rows(pixels), reduction="none").sum(dim=1)
    constant = math.log(std) + 0.5 * math.log(2 * math.pi)
    return -0.5 / std**2 * squares - pixels[0].numel() * constant


def bernoulli_log_likelihood(pixels: Tensor, logits: Tensor) -> Tensor:
    """Return the log probability in nats [N] of black-or-white pixels that are white with probability `pixels`."""
    return -F.binary_cross_entropy_with_logits(_rows(logits), _rows(pixels), reduction="none").sum(dim=1)


def bits_per_dimension(elbo_nats: Tensor, dimensions: int, *, density: bool) -> Tensor:
    """Return what an 8-bit pixel costs at most, in bits, under an ELBO [] in nats per image of `dimensions` values.

    A `density` over [0, 1] becomes the probability of one of the 256 values by the width of its bin, 1/255: that adds
    log2(255) bits, and is exact to (bin / std)^2 / 24. Mass that a Gaussian puts outside [0, 1] counts as lost, so the
    number errs on the high side. Without `density` the ELBO is a probability of binary pixels already: bits per
    *binary* pixel, not comparable with the other.
    """
    bits = -elbo_nats / (dimensions * math.log(2))
    return bits + math.log2(LEVELS) if density else bits


def kl_weight(beta: float, warmup_kimg: float, images_seen: int) -> float:
    """Return the weight of the KL term: from 0 linearly to `beta` over the first `warmup_kimg` (Bowman et al. 2016)."""
    return beta if images_seen >= warmup_kimg * 1000 else beta * images_seen / (warmup_kimg * 1000)


def elbo_terms(
    log_likelihood: Tensor, kl: Tensor, weight: float, dimensions: int, *, density: bool
) -> dict[str, Tensor]:
    """Return reconstruction and weighted KL, to be minimised, and for the curves the ELBO itself (KL weight 1)."""
    with torch.no_grad():
        elbo_nats = (log_likelihood - kl).mean()
    return {
        "reconstruction": -log_likelihood.mean(),
        "kl": weight * kl.mean(),
        "~kl_nats": kl.mean().detach(),
        "~elbo_nats": elbo_nats,
        "~bits_per_dim": bits_per_dimension(elbo_nats, dimensions, density=density),
    }


def _rows(images: Tensor) -> Tensor:
    """Return [N C H W] as [N H*W*C]: no copy in channels_last, and gradients come back in that layout too.

    A sum over three dimensions hands them back contiguous, and the layer before would read across its images.
    """
    return images.movedim(1, -1).flatten(1)
