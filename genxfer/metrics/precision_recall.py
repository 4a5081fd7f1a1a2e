"""Improved precision and recall (Kynkaanniemi et al. 2019): are fake images realistic, and do they cover the real ones?

A set's manifold is the union of balls around its features, each out to its third nearest other one of the set.
Precision is the share of fake images on the manifold of the real ones, recall the share of real ones on that of the
fake ones. Knows features only, nothing of images.
"""

import torch

from genxfer.metrics.distances import inside, tiles, to_kth_neighbour
from genxfer.metrics.estimate import Estimate, Measurement
from genxfer.metrics.sets import FeatureSets

NEIGHBOURS = 3  # as in the paper


def precision_recall(sets: FeatureSets) -> Measurement:
    """Return `precision` and `recall`, both in [0, 1]; raises TooFewImagesError below 4 images.

    Both depend on the number of images of each side, so compare values of equal numbers only.
    """
    sets.check("Precision and recall", NEIGHBOURS + 1)
    real_radii, fake_radii = (to_kth_neighbour(side, NEIGHBOURS) for side in (sets.real, sets.fake))
    covered = torch.zeros(len(sets.real), dtype=torch.bool)
    realistic = torch.zeros(len(sets.fake), dtype=torch.bool)
    for rows, columns, squared in tiles(sets.real, sets.fake):
        realistic[columns] |= inside(squared, real_radii[rows, None]).any(dim=0)
        covered[rows] |= inside(squared, fake_radii[columns]).any(dim=1)
    precision, recall = (Estimate(float(share.double().mean())) for share in (realistic, covered))
    return Measurement({"precision": precision, "recall": recall})
