"""Which images show the same thing: the same file saved again, resized, a little brighter, or a frame later.

Works on packed pixels between the decoding and the split, and again for whoever wants to check a split. An image is
described by its brightness averaged on 16 x 16 squares and its colour on 4 x 4 (as JPEG too keeps less of colour), each
less its mean, all divided by their length; two images are near-duplicates where these descriptors correlate by 0.99.
The threshold is one of evidence (EXPERIMENTS.md): copies of photographs lie above it, and of millions of pairs of
handwritten digits ten, all of them ones. Knows nothing of names or parts.
"""

import hashlib
import math
from collections.abc import Iterator, Sequence
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

SIDE = 16  # averages of brightness along each side of an image
COLOUR_SIDE = 4
CORRELATION = 0.99  # from here on two images are near-duplicates
FLAT = 4.0  # gray levels of deviation: below, what differs is noise and is not blown up
_SCALE = 1000  # of a descriptor. Its whole numbers have products below 2**24, which float32 adds exactly in any order
_FARTHEST = round(2 * (1 - CORRELATION) * _SCALE**2)  # squared distance of near-duplicates
_BLOCK = 1024  # descriptors compared with as many others at a time: 4 MiB of distances
_PIXELS = 1 << 22  # described at a time, in float64

# RGB as brightness and two colour differences, by right angles, so that lengths stay what they are (Ohta et al. 1980).
_OPPONENT = np.array([[1, 1, 1], [1, 0, -1], [-1, 2, -1]]) / np.sqrt([[3], [2], [6]])


class Described(NamedTuple):
    """Images as they are compared: descriptors [N D], and the digest of each image's pixels."""

    descriptors: NDArray[np.int16]
    digests: list[bytes]

    def of(self, rows: Sequence[int]) -> "Described":
        """Return the images `rows` alone."""
        return Described(self.descriptors[np.asarray(rows, np.int64)], [self.digests[row] for row in rows])


class Twin(NamedTuple):
    """An image that another set has too, or nearly: its index, its twin's there, and whether the pixels are equal."""

    image: int
    twin: int
    exact: bool


def describe(pixels: NDArray[np.uint8]) -> Described:
    """Describe square images [N C H W]; a memory map is read block by block."""
    rows = max(1, _PIXELS // math.prod(pixels.shape[1:]))
    blocks = [_descriptors(pixels[start : start + rows]) for start in range(0, max(len(pixels), 1), rows)]
    return Described(np.concatenate(blocks), [hashlib.sha256(image.tobytes()).digest() for image in pixels])


def twins(earlier: Described, later: Described) -> list[Twin]:
    """Return every image of `later` that has a near-duplicate in `earlier`, with the first one; [] is a clean split."""
    exact = {digest: index for index, digest in reversed(list(enumerate(earlier.digests)))}
    nearest = np.full(len(later.digests), -1)
    for at_later, at_earlier, near in _near(later.descriptors, earlier.descriptors):
        new = np.flatnonzero(near.any(axis=1) & (nearest[at_later : at_later + len(near)] < 0))
        nearest[at_later + new] = at_earlier + near[new].argmax(axis=1)
    return [
        Twin(image, exact.get(digest, int(nearest[image])), digest in exact)
        for image, digest in enumerate(later.digests)
        if nearest[image] >= 0 or digest in exact
    ]


def groups(described: Described) -> NDArray[np.int64]:
    """Return for each image [N] the first one that it hangs together with, over any number of near-duplicates.

    Compares every pair, in blocks: N^2 / 2 products of D numbers, and no more memory than the descriptors and a block.
    """
    first = np.arange(len(described.digests))
    for at, other, near in _near(described.descriptors, described.descriptors, only_later=True):
        rows, columns = np.nonzero(near)
        _unite(first, at + rows, other + columns)
    return first


def _unite(first: NDArray[np.int64], a: NDArray[np.int64], b: NDArray[np.int64]) -> None:
    """Give the groups of each pair (a, b) the first image of both, in place: union-find, all pairs at once."""
    while True:
        apart = first[a] != first[b]
        if not apart.any():
            return
        a, b = a[apart], b[apart]
        np.minimum.at(first, np.maximum(first[a], first[b]), np.minimum(first[a], first[b]))
        while np.any(first[first] != first):
            first[:] = first[first]


def _near(
    a: NDArray[np.int16], b: NDArray[np.int16], *, only_later: bool = False
) -> Iterator[tuple[int, int, NDArray[np.bool_]]]:
    """Yield, block by block, the places in `a` and `b` and which pairs there are near [n m].

    |x - y|^2 = |x|^2 + |y|^2 - 2xy is one product of the descriptors with two columns more. `only_later` leaves out the
    blocks of `b` that lie before that of `a`.
    """
    for at in range(0, len(a), _BLOCK):
        x = a[at : at + _BLOCK].astype(np.float32)
        left = np.column_stack([-2 * x, np.square(x).sum(axis=1), np.ones(len(x), np.float32)])
        for other in range(at if only_later else 0, len(b), _BLOCK):
            y = b[other : other + _BLOCK].astype(np.float32)
            right = np.column_stack([y, np.ones(len(y), np.float32), np.square(y).sum(axis=1)])
            yield at, other, left @ right.T <= _FARTHEST


def _descriptors(pixels: NDArray[np.uint8]) -> NDArray[np.int16]:
    """Return the descriptors [N D] of images [N C H W], rounded to whole numbers so that all else is exact."""
    planes = pixels.astype(np.float64)
    if pixels.shape[1] == 3:
        planes = np.einsum("pc,nchw->nphw", _OPPONENT, planes)
    described = np.concatenate([_centred(planes[:, :1], SIDE), _centred(planes[:, 1:], COLOUR_SIDE)], axis=1)
    lengths = np.sqrt(np.square(described).sum(axis=1, keepdims=True))
    return np.rint(described * (_SCALE / np.maximum(lengths, FLAT * SIDE))).astype(np.int16)


def _centred(planes: NDArray[np.float64], side: int) -> NDArray[np.float64]:
    """Return averages of `planes` [N P H W] on side x side squares, less the plane's mean, as if on SIDE x SIDE."""
    weights = _area_weights(planes.shape[-1], side)
    averages = weights @ planes @ weights.T
    centred = averages - averages.mean(axis=(2, 3), keepdims=True)
    return centred.reshape(len(planes), planes.shape[1] * side**2) * (SIDE / side)


def _area_weights(side_px: int, side: int) -> NDArray[np.float64]:
    """Return what each pixel counts in the average of each of `side` squares along a side [side side_px]."""
    begins = np.arange(side)[:, None] * side_px  # in parts of 1/side pixel, as are the pixels
    pixel = np.arange(side_px)[None] * side
    overlap = np.minimum(begins + side_px, pixel + side) - np.maximum(begins, pixel)
    return np.maximum(overlap, 0) / side_px
