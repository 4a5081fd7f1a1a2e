"""FID: the Frechet distance between two Gaussians fitted to real and fake features (Heusel et al. 2017).

Biased upwards for few images: below the feature size the covariance has no full rank, and values of different n must
not be compared. KID has no such bias. Knows features only, nothing of images.
"""

from dataclasses import dataclass

import torch
from torch import Tensor

from genxfer.errors import DataError
from genxfer.metrics.estimate import Estimate


@dataclass(frozen=True)
class Moments:
    """The mean [D] and covariance [D D] of `n` features, in float64: all that FID needs to know of them."""

    n: int
    mean: Tensor
    covariance: Tensor


def moments(features: Tensor) -> Moments:
    """Return the moments of `features` [N D]; raises DataError for fewer than two."""
    n = len(features)
    if n < 2:
        raise DataError(f"FID needs at least 2 images on each side and was given {n}.")
    wide = features.double()
    mean = wide.mean(dim=0)
    centred = wide - mean
    return Moments(n, mean, centred.T @ centred / (n - 1))


def frechet_distance(a: Moments, b: Moments) -> float:
    """Return |mean_a - mean_b|^2 + tr(A + B - 2 (A B)^(1/2)) for covariances A and B (Dowson & Landau 1982)."""
    # A B is not symmetric, but shares its eigenvalues with A^(1/2) B A^(1/2), which is: no complex square root, and
    # what rounding puts below 0 is clipped.
    values, vectors = torch.linalg.eigh(a.covariance)
    root = (vectors * values.clamp_min(0).sqrt()) @ vectors.T
    product = root @ b.covariance @ root
    trace_of_root = torch.linalg.eigvalsh((product + product.T) / 2).clamp_min(0).sqrt().sum()
    squared_shift = (a.mean - b.mean).square().sum()
    return float(squared_shift + a.covariance.trace() + b.covariance.trace() - 2 * trace_of_root)


def fid(real: Tensor, fake: Tensor) -> Estimate:
    """Return the FID between `real` [N D] and `fake` [M D], in float64; it comes without a standard error."""
    return Estimate(frechet_distance(moments(real), moments(fake)))
