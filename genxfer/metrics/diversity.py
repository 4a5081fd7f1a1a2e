"""Diversity: how different fake images are that resemble the same training image (Ojha et al. 2021, section 4).

Every fake image goes to the training image nearest to it; the mean distance between those that went to the same one,
averaged over the training images, is 0 for a model that repeats its training images, however many these are. The
paper's distance is LPIPS; here it is the Euclidean distance of the extractor's features, so values depend on the
extractor, and held-out real images, however many, in the place of samples are the yardstick. Knows features only,
nothing of images.
"""

import statistics

from torch import Tensor

from genxfer.metrics.distances import mean_distance, nearest
from genxfer.metrics.estimate import Estimate, Measurement
from genxfer.metrics.sets import FeatureSets, TooFewImagesError


def diversity(sets: FeatureSets) -> Measurement:
    """Return `diversity`, not negative, and the yardstick `diversity_real` where it can be had.

    Training images that fewer than two images went to are left out. Raises ParameterError without training images,
    TooFewImagesError where no training image is left.
    """
    train = sets.training("Diversity", 1)
    of_fake, of_real = within_clusters(sets.fake, train), within_clusters(sets.real, train)
    if of_fake is None:
        raise TooFewImagesError(
            f"Diversity needs two samples that resemble the same training image; {len(sets.fake)} samples went to as "
            "many of them. Draw more samples."
        )
    yardsticks = {} if of_real is None else {"diversity_real": of_real}
    return Measurement({"diversity": Estimate(of_fake)}, yardsticks)


def within_clusters(images: Tensor, centres: Tensor) -> float | None:
    """Return the mean distance within clusters of `images` [M D], each with the nearest of `centres` [T D].

    None when no cluster has two images.
    """
    _, owner = nearest(images, centres)
    clusters = ((owner == centre).nonzero().flatten() for centre in owner.unique())
    spreads = [mean_distance(images, members) for members in clusters if len(members) > 1]
    return statistics.fmean(spreads) if spreads else None
