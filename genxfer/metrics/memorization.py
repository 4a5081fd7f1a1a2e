"""Memorization: are samples nearer to training images than real images that the model never saw?

An image counts as near when it is nearer to its nearest training image than that training image is to any other. Of
images from the training images' own distribution a good part is: the share among held-out images says how many, and
samples may not exceed it by more than chance explains. (The idea of a copy as a sample nearer than unseen data are
stands in Meehan et al. 2020, with another statistic.) Knows features only, nothing of images.
"""

import math

import torch
from torch import Tensor

from genxfer.metrics.distances import inside, nearest, to_kth_neighbour
from genxfer.metrics.estimate import Estimate, Measurement, Pair
from genxfer.metrics.sets import FeatureSets

MARGIN = 0.05  # of the share: what is tolerated at any number of images
STANDARD_ERRORS = 3.0  # of the difference of both shares: what is tolerated where few images were compared
SHOWN_PAIRS = 8


def memorization(sets: FeatureSets) -> Measurement:
    """Return the share of near samples as `memorization`, and that of held-out images as its yardstick.

    It fails above the held-out share plus 0.05, or plus three standard errors of the difference where that is more.
    Raises ParameterError without training images, TooFewImagesError below two of them.
    """
    train = sets.training("Memorization", 2)
    sets.check("Memorization", 1)
    spacing = to_kth_neighbour(train, 1)
    distance, place = nearest(sets.fake, train)
    samples, held_out = _share(distance, spacing[place]), _share_near(sets.real, train, spacing)
    error = _standard_error(samples, len(sets.fake), held_out, len(sets.real))
    threshold = held_out + max(MARGIN, STANDARD_ERRORS * error)
    return Measurement(
        {"memorization": Estimate(samples)},
        {"memorization_heldout": held_out},
        {"memorization": {"passed": samples <= threshold, "threshold": threshold}},
        pairs=_worst_pairs(distance, place, spacing),
    )


def _share_near(images: Tensor, train: Tensor, spacing: Tensor) -> float:
    distance, place = nearest(images, train)
    return _share(distance, spacing[place])


def _share(distance: Tensor, spacing: Tensor) -> float:
    return float(inside(distance, spacing).double().mean())


def _standard_error(p: float, n: int, q: float, m: int) -> float:
    """Return the standard error of p - q, shares of `n` and `m` images, if both were draws of one distribution."""
    pooled = (p * n + q * m) / (n + m)
    return math.sqrt(pooled * (1 - pooled) * (1 / n + 1 / m))


def _worst_pairs(distance: Tensor, place: Tensor, spacing: Tensor) -> tuple[Pair, ...]:
    """Return the samples nearest to their training image for its spacing; of equals the first."""
    own = spacing[place]
    order = torch.sort(distance / own.clamp_min(torch.finfo(own.dtype).tiny), stable=True).indices
    distance, own = distance.sqrt(), own.sqrt()
    return tuple(Pair(int(i), int(place[i]), float(distance[i]), float(own[i])) for i in order[:SHOWN_PAIRS])
