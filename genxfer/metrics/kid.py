"""KID: the squared maximum mean discrepancy between real and fake features (Binkowski et al. 2018).

Unbiased, so small sets may be compared with large ones and 0 means equal, give or take the standard error; it can fall
slightly below 0. Every pair of images counts, instead of the usual random subsets: the value has no seed. Knows
features only, nothing of images.
"""

import math

import torch
from torch import Tensor

from genxfer.metrics.estimate import Estimate, LeftOut, Measurement, jackknife_variance, normal_interval
from genxfer.metrics.sets import FeatureSets

_TILE = 2048  # pairs are taken in tiles of _TILE x _TILE float64 kernel values: 32 MiB, however many images there are


def kernel(a: Tensor, b: Tensor) -> Tensor:
    """Return the cubic polynomial kernel (a . b / D + 1)^3 [N M] of `a` [N D] and `b` [M D], in float64.

    The inner products are taken in the features' own precision, twice as fast in float32. Their roundings are far
    below what float32 features carry already, and fall out of the mean over all pairs: tests hold it to 1e-6, and to
    1e-5 of a KID of nearly 0.
    """
    return (a @ b.T).double().div_(a.shape[1]).add_(1).pow_(3)


def _sums(a: Tensor, b: Tensor) -> tuple[Tensor, Tensor]:
    """Return the row sums [N] and the column sums [M] of the kernel between `a` [N D] and `b` [M D]."""
    rows, columns = torch.zeros(len(a), dtype=torch.float64), torch.zeros(len(b), dtype=torch.float64)
    for i in range(0, len(a), _TILE):
        for j in range(0, len(b), _TILE):
            tile = kernel(a[i : i + _TILE], b[j : j + _TILE])
            rows[i : i + _TILE] += tile.sum(dim=1)
            columns[j : j + _TILE] += tile.sum(dim=0)
    return rows, columns


def _sums_to_others(a: Tensor) -> Tensor:
    """Return [N]: for each row of `a` [N D], the sum of the kernel to every row but itself."""
    sums = torch.zeros(len(a), dtype=torch.float64)
    for i in range(0, len(a), _TILE):
        tile = kernel(a[i : i + _TILE], a[i : i + _TILE]).fill_diagonal_(0)
        sums[i : i + _TILE] += tile.sum(dim=1)
        above, below = _sums(a[i : i + _TILE], a[i + _TILE :])  # the kernel is symmetric: half of it will do
        sums[i : i + _TILE] += above
        sums[i + _TILE :] += below
    return sums


def squared_discrepancy(real: Tensor, fake: Tensor) -> Estimate:
    """Return the squared maximum mean discrepancy between `real` [N D] and `fake` [M D], at least 3 of each.

    Summed in float64, with its standard error: a delete-one jackknife over the real and, independently, the fake images
    (Arvesen 1969). The value without one image follows from the kernel's row sums, so it costs nothing. The 95 %
    interval is 1.96 standard errors to either side. One and the same set on both sides gives a little less than 0:
    each image then meets itself across the sets, but not within them.
    """
    n, m = len(real), len(fake)
    real_others, fake_others = _sums_to_others(real), _sums_to_others(fake)
    real_to_fake, fake_to_real = _sums(real, fake)
    within_real, within_fake, across = real_others.sum(), fake_others.sum(), real_to_fake.sum()

    of_real, of_fake = within_real / (n * (n - 1)), within_fake / (m * (m - 1))
    value = float(of_real + of_fake - 2 * across / (n * m))

    less_real = (within_real - 2 * real_others) / ((n - 1) * (n - 2)) - 2 * (across - real_to_fake) / ((n - 1) * m)
    less_fake = (within_fake - 2 * fake_others) / ((m - 1) * (m - 2)) - 2 * (across - fake_to_real) / (n * (m - 1))
    left_out = LeftOut(less_real + of_fake, less_fake + of_real)
    error = math.sqrt(jackknife_variance(left_out.real) + jackknife_variance(left_out.fake))
    return Estimate(value, error, normal_interval(value, error), left_out)


def kid(sets: FeatureSets) -> Measurement:
    """Return the KID between the real and the fake images as `kid`; raises TooFewImagesError below 3 images."""
    sets.check("KID", 3)
    return Measurement({"kid": squared_discrepancy(sets.real, sets.fake)})
