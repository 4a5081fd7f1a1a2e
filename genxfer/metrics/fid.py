"""FID: the Frechet distance between two Gaussians fitted to real and fake features (Heusel et al. 2017).

Biased upwards for few images: below the feature size the covariance has no full rank, and values of different n must
not be compared. KID has no such bias. Knows features only, nothing of images.
"""

from dataclasses import dataclass
from functools import reduce

import torch
from torch import Tensor

from genxfer.metrics.estimate import Estimate, Measurement
from genxfer.metrics.sets import FeatureSets

_ROWS = 4096  # so many features are in float64 at a time


@dataclass(frozen=True)
class Moments:
    """The mean [D] and the scatter [D D] around it of `n` features, in float64: all that FID needs to know of them."""

    n: int
    mean: Tensor
    scatter: Tensor

    @property
    def covariance(self) -> Tensor:
        """The unbiased covariance [D D]."""
        return self.scatter / (self.n - 1)

    def __add__(self, other: "Moments") -> "Moments":
        """Return the moments of both sets together (Chan, Golub & LeVeque 1983)."""
        n = self.n + other.n
        shift = other.mean - self.mean
        scatter = self.scatter + other.scatter + torch.outer(shift, shift) * (self.n * other.n / n)
        return Moments(n, self.mean + shift * (other.n / n), scatter)


def moments(features: Tensor) -> Moments:
    """Return the moments of `features` [N D], taken a few thousand at a time."""
    return reduce(Moments.__add__, map(_moments, features.split(_ROWS)))


def _moments(features: Tensor) -> Moments:
    wide = features.double()
    mean = wide.mean(dim=0)
    centred = wide - mean
    return Moments(len(wide), mean, centred.T @ centred)


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


def frechet_distance_of_few(a: Tensor, b: Tensor) -> float:
    """Return the same from features `a` [N D] and `b` [M D], without ever forming a covariance: fast for N, M < D.

    With A = X^T X and B = Y^T Y, tr (A B)^(1/2) is the sum of the singular values of X Y^T [N M].
    """
    (mean_a, x), (mean_b, y) = _centred(a), _centred(b)
    trace_of_root = torch.linalg.svdvals(x @ y.T).sum()
    return float((mean_a - mean_b).square().sum() + x.square().sum() + y.square().sum() - 2 * trace_of_root)


def _centred(features: Tensor) -> tuple[Tensor, Tensor]:
    """Return the mean [D], and X [N D] whose X^T X is the covariance."""
    wide = features.double()
    mean = wide.mean(dim=0)
    return mean, (wide - mean) / (len(wide) - 1) ** 0.5


def fid(sets: FeatureSets) -> Measurement:
    """Return the FID between the real and the fake images as `fid`, in float64, without a standard error.

    A note says where there are too few images for it. Raises TooFewImagesError below 2 images.
    """
    sets.check("FID", 2)
    n, m, size = len(sets.real), len(sets.fake), sets.real.shape[1]
    if max(n, m) < size:
        value = frechet_distance_of_few(sets.real, sets.fake)
    else:
        value = frechet_distance(moments(sets.real), moments(sets.fake))
    # Rounding may put equal sets a little below 0, where no squared distance lies.
    return Measurement({"fid": Estimate(max(value, 0.0))}, notes=_note(min(n, m), size))


def _note(n: int, size: int) -> tuple[str, ...]:
    if n > size:
        return ()
    return (
        f"FID: {n:,} images do not determine a covariance of {size:,} features, which biases it upwards. Compare it "
        "only with FIDs of as many images; KID is unbiased at any number.",
    )
