"""Memorization: are samples nearer to training images than real images that the model never saw?

An image counts as near when it is nearer to its nearest training image than that training image is to any other, and
as a copy when it is nearer than half of that. Of images from the training images' own distribution a good part is
near, and hardly one a copy: the shares among real images say how many, and samples may not exceed them by more than
chance explains. The first share shows a model that keeps close to its training images everywhere; the second one that
repeats some of them and draws other images elsewhere, which leave the first share low. (The idea of a copy as a sample
nearer than unseen data are stands in Meehan et al. 2020, with another statistic.) Knows features only, nothing of
images.
"""

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from genxfer.metrics.distances import inside, nearest, neighbours, squared_distances, tiles
from genxfer.metrics.estimate import Estimate, Measurement, Pair
from genxfer.metrics.sets import FeatureSets, TooFewImagesError

COPY = 0.5  # of the distance between training images
NEAR_MARGIN, COPY_MARGIN = 0.05, 0.02  # of the shares: what is tolerated at any number of images
STANDARD_ERRORS = 3.0  # of the difference of two shares: what is tolerated where few images were compared
# Training images nearer to each other than this part of what two of them usually are apart are one image, saved twice.
SAME = 0.1
SHOWN_PAIRS = 8


@dataclass(frozen=True)
class Matches:
    """The nearest training image of each of N images: its place [N], the squared distance, and its squared spacing."""

    place: Tensor
    distance: Tensor
    spacing: Tensor

    def share(self, part: float) -> "Share":
        """Return the share of images that lie within `part` of the spacing."""
        within = inside(self.distance, self.spacing * part**2)
        return Share(float(within.double().mean()), len(within))


@dataclass(frozen=True)
class Share:
    """A share of `n` images."""

    value: float
    n: int

    def limit(self, samples: "Share", margin: float) -> float:
        """Return what `samples` may reach where this is the share of real images.

        More by `margin`, or by three standard errors of the difference if both were draws of one distribution; 1 at
        most, which no samples exceed.
        """
        pooled = (self.value * self.n + samples.value * samples.n) / (self.n + samples.n)
        error = math.sqrt(pooled * (1 - pooled) * (1 / self.n + 1 / samples.n))
        return min(1.0, self.value + max(margin, STANDARD_ERRORS * error))


def memorization(sets: FeatureSets) -> Measurement:
    """Return the share of near samples as `memorization`, that of copies as `copies`, and those of real images beside.

    It fails where one of the two lies above its limit: the share of real images plus 0.05 (near) or 0.02 (copies), or
    plus three standard errors of the difference where that is more. Real images are the held-out ones and, for copies,
    each training image as well, compared with all others. Raises ParameterError without training images,
    TooFewImagesError below two different ones.
    """
    train = sets.training("Memorization", 2)
    sets.check("Memorization", 1)
    stands_for = representatives(train)
    kept, row_of_kept = stands_for.unique(return_inverse=True)
    if len(kept) < 2:
        raise TooFewImagesError(
            f"Memorization needs two different training images; the {len(train)} are one image many times."
        )
    distances, places = neighbours(train[kept], min(2, len(kept) - 1))
    spacing = distances[row_of_kept, 0]

    def matches(images: Tensor) -> Matches:
        distance, place = nearest(images, train)
        return Matches(place, distance, spacing[place])

    samples, held_out = matches(sets.fake), matches(sets.real)
    near, copies = samples.share(1), samples.share(COPY)
    near_real, copies_real = held_out.share(1), _together(held_out.share(COPY), _left_out(distances, places))
    near_limit, copies_limit = near_real.limit(near, NEAR_MARGIN), copies_real.limit(copies, COPY_MARGIN)
    passed = near.value <= near_limit and copies.value <= copies_limit
    return Measurement(
        {"memorization": Estimate(near.value), "copies": Estimate(copies.value)},
        {"memorization_heldout": near_real.value, "copies_heldout": copies_real.value},
        {"memorization": {"passed": passed, "threshold": near_limit}, "copies": {"threshold": copies_limit}},
        pairs=_worst_pairs(samples),
    )


def representatives(train: Tensor) -> Tensor:
    """Return for each row of `train` [N D] the place [N] of the one that stands for it: the first nearly the same.

    Of those that stand for themselves no two are nearly the same. An image that is there twice would otherwise have no
    distance to its nearest other one, and no sample, however near, would lie within it. Of the frames of a film, each
    nearly the same as the next, as many stand for themselves as it takes to be near all of them.
    """
    radius = SAME**2 * 2 * train.var(dim=0, correction=0).double().sum()  # mean squared distance: twice the variance
    places = torch.arange(len(train))
    repeated = torch.zeros(len(train), dtype=torch.bool)  # those that any earlier row is nearly the same as
    for rows, columns, squared in tiles(train, train):
        earlier = places[columns] < places[rows, None]
        repeated[rows] |= (inside(squared, radius) & earlier).any(dim=1)
    stands_for, alone = places.clone(), ~repeated
    for place in repeated.nonzero()[:, 0].tolist():
        before = alone[:place].nonzero()[:, 0]
        same = inside(squared_distances(train[place : place + 1], train[before])[0], radius)
        if same.any():
            stands_for[place] = before[same.nonzero()[0, 0]]
        else:
            alone[place] = True
    return stands_for


def _left_out(distances: Tensor, places: Tensor) -> Share | None:
    """Return the share of copies among the training images, each compared with all others as if it were not one.

    From the squared distances to the two nearest neighbours [N 2] and the places of these; None where there is one.
    """
    if distances.shape[1] < 2:
        return None
    neighbour = places[:, 0]
    mutual = places[neighbour, 0] == torch.arange(len(places))  # the neighbour's spacing is then to its second nearest
    spacing = torch.where(mutual, distances[neighbour, 1], distances[neighbour, 0])
    return Matches(neighbour, distances[:, 0], spacing).share(COPY)


def _together(one: Share, other: Share | None) -> Share:
    if other is None:
        return one
    n = one.n + other.n
    return Share((one.value * one.n + other.value * other.n) / n, n)


def _worst_pairs(samples: Matches) -> tuple[Pair, ...]:
    """Return the samples nearest to their training image for its spacing; of equals the first."""
    order = torch.sort(samples.distance / samples.spacing, stable=True).indices[:SHOWN_PAIRS]
    place, distance, spacing = samples.place[order], samples.distance[order].sqrt(), samples.spacing[order].sqrt()
    return tuple(
        Pair(int(sample), int(train), float(far), float(own))
        for sample, train, far, own in zip(order, place, distance, spacing, strict=True)
    )
