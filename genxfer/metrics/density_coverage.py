"""Density and coverage (Naeem et al. 2020): precision and recall that a few outliers move little.

Around each real feature is a ball out to its fifth nearest other one. Density counts how many of these balls a fake
image lies in, over five: about 1 for equal distributions, and more where fake images crowd where real ones are
densest. Coverage is the share of balls with a fake image in them. Knows features only, nothing of images.
"""

import math

import torch

from genxfer.metrics.distances import inside, tiles, to_kth_neighbour
from genxfer.metrics.estimate import Estimate, Measurement
from genxfer.metrics.sets import FeatureSets

NEIGHBOURS = 5  # as in the paper


def density_coverage(sets: FeatureSets) -> Measurement:
    """Return `density`, not negative, and `coverage`, in [0, 1]; raises TooFewImagesError below 6 images.

    For two sets of one distribution density is 1 in expectation, and coverage the yardstick `coverage_equal`. An
    outlier among the real images, whose ball may hold every fake image, adds at most 1/5 to density.
    """
    sets.check("Density and coverage", NEIGHBOURS + 1)
    radii = to_kth_neighbour(sets.real, NEIGHBOURS)
    covered = torch.zeros(len(sets.real), dtype=torch.bool)
    hits = 0
    for rows, _, squared in tiles(sets.real, sets.fake):
        within = inside(squared, radii[rows, None])
        covered[rows] |= within.any(dim=1)
        hits += int(within.sum())
    density = Estimate(hits / (NEIGHBOURS * len(sets.fake)))
    return Measurement(
        {"density": density, "coverage": Estimate(float(covered.double().mean()))},
        {"coverage_equal": coverage_of_equals(len(sets.real), len(sets.fake))},
    )


def coverage_of_equals(n: int, m: int) -> float:
    """Return the expected coverage of `n` real images by `m` fake ones of the same distribution.

    A ball stays empty when the five images nearest to its centre, of all others on both sides, are real.
    """
    return 1 - math.prod((n - i) / (n + m - i) for i in range(1, NEIGHBOURS + 1))
