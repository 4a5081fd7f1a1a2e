"""KID: the squared maximum mean discrepancy between real and fake features (Binkowski et al. 2018).

Unbiased, so small sets may be compared with large ones and 0 means equal, give or take the standard error; it can fall
slightly below 0. Every pair of images counts, instead of the usual random subsets: the value has no seed. Knows
features only, nothing of images.
"""

import math

from torch import Tensor

from genxfer.errors import DataError
from genxfer.metrics.estimate import Estimate

_TILE = 2048  # pairs are taken in tiles of _TILE x _TILE float64 kernel values: 32 MiB, however many images there are


def kernel(a: Tensor, b: Tensor) -> Tensor:
    """Return the cubic polynomial kernel (a . b / D + 1)^3 [N M] of `a` [N D] and `b` [M D]."""
    return (a @ b.T / a.shape[1] + 1).pow(3)


def _sums(a: Tensor, b: Tensor) -> tuple[Tensor, Tensor]:
    """Return the row sums [N] and the column sums [M] of the kernel between `a` [N D] and `b` [M D]."""
    rows, columns = a.new_zeros(len(a)), b.new_zeros(len(b))
    for i in range(0, len(a), _TILE):
        for j in range(0, len(b), _TILE):
            tile = kernel(a[i : i + _TILE], b[j : j + _TILE])
            rows[i : i + _TILE] += tile.sum(dim=1)
            columns[j : j + _TILE] += tile.sum(dim=0)
    return rows, columns


def _sums_to_others(a: Tensor) -> Tensor:
    """Return [N]: for each row of `a` [N D], the sum of the kernel to every row but itself."""
    with_itself = ((a * a).sum(dim=1) / a.shape[1] + 1).pow(3)
    return _sums(a, a)[0] - with_itself


def _jackknife_variance(left_out: Tensor) -> Tensor:
    """Return the delete-one jackknife variance from the values [N] of the estimate without each image in turn."""
    n = len(left_out)
    return (left_out - left_out.mean()).square().sum() * (n - 1) / n


def kid(real: Tensor, fake: Tensor) -> Estimate:
    """Return the KID between `real` [N D] and `fake` [M D], in float64, with its standard error.

    The standard error is a delete-one jackknife over the real and, independently, the fake images (Arvesen 1969): the
    value without one image follows from the kernel's row sums, so it costs nothing. One and the same set on both sides
    gives a little less than 0: each image then meets itself across the sets, but not within them.
    Raises DataError below 3 images.
    """
    n, m = len(real), len(fake)
    if min(n, m) < 3:
        raise DataError(f"KID needs at least 3 images on each side and was given {n} real and {m} fake ones.")
    real, fake = real.double(), fake.double()
    real_others, fake_others = _sums_to_others(real), _sums_to_others(fake)
    real_to_fake, fake_to_real = _sums(real, fake)
    within_real, within_fake, across = real_others.sum(), fake_others.sum(), real_to_fake.sum()

    value = within_real / (n * (n - 1)) + within_fake / (m * (m - 1)) - 2 * across / (n * m)

    without_real = (within_real - 2 * real_others) / ((n - 1) * (n - 2)) - 2 * (across - real_to_fake) / ((n - 1) * m)
    without_fake = (within_fake - 2 * fake_others) / ((m - 1) * (m - 2)) - 2 * (across - fake_to_real) / (n * (m - 1))
    variance = _jackknife_variance(without_real) + _jackknife_variance(without_fake)
    return Estimate(float(value), math.sqrt(float(variance)))
