"""Distances between features, in tiles: whatever the number of images, memory stays within a few hundred MB.

Squared Euclidean distances in float64. Knows nothing of what metrics make of them.
"""

from collections.abc import Iterator

import torch
from torch import Tensor

_TILE = 2048  # a tile of _TILE x _TILE float64 values takes 32 MiB

# Features of one image differ by rounding between batches: what is nearer than that is the same image.
_SAME = 1e-10
# Two roundings of one distance: what is at a ball's border is inside.
_BORDER = 1 + 1e-9


def squared_distances(a: Tensor, b: Tensor) -> Tensor:
    """Return |a_i - b_j|^2 [N M] of `a` [N D] and `b` [M D] in float64, 0 where two differ by no more than rounding."""
    a, b = a.double(), b.double()
    sizes = (a * a).sum(dim=1)[:, None] + (b * b).sum(dim=1)
    squared = torch.addmm(sizes, a, b.T, alpha=-2)
    return squared.masked_fill_(squared <= sizes.mul_(_SAME), 0)


def tiles(a: Tensor, b: Tensor) -> Iterator[tuple[slice, slice, Tensor]]:
    """Yield (rows of `a`, rows of `b`, their squared distances), all tiles of one slice of `a` after the other."""
    for i in range(0, len(a), _TILE):
        for j in range(0, len(b), _TILE):
            rows, columns = slice(i, i + _TILE), slice(j, j + _TILE)
            yield rows, columns, squared_distances(a[rows], b[columns])


def nearest(a: Tensor, b: Tensor) -> tuple[Tensor, Tensor]:
    """Return, for each row of `a` [N D], the squared distance [N] and the place [N] of the nearest row of `b`.

    Of several equally near ones it is the first.
    """
    best = torch.full((len(a),), torch.inf, dtype=torch.float64)
    place = torch.zeros(len(a), dtype=torch.int64)
    for rows, columns, squared in tiles(a, b):
        value, index = squared.min(dim=1)
        closer = value < best[rows]
        best[rows] = torch.where(closer, value, best[rows])
        place[rows] = torch.where(closer, index + columns.start, place[rows])
    return best, place


def neighbours(a: Tensor, k: int) -> tuple[Tensor, Tensor]:
    """Return, for each row of `a` [N D], the squared distances [N k] and places [N k] of the `k` nearest other rows.

    The nearest first; needs N > k.
    """
    best = torch.full((len(a), k), torch.inf, dtype=torch.float64)
    place = torch.zeros((len(a), k), dtype=torch.int64)
    for rows, columns, squared in tiles(a, a):
        if rows == columns:
            squared.fill_diagonal_(torch.inf)
        value, index = torch.cat([best[rows], squared], dim=1).topk(k, dim=1, largest=False)
        known = place[rows].gather(1, index.clamp_max(k - 1))
        best[rows], place[rows] = value, torch.where(index < k, known, index - k + columns.start)
    return best, place


def to_kth_neighbour(a: Tensor, k: int) -> Tensor:
    """Return, for each row of `a` [N D], the squared distance [N] to the `k`-th nearest other row; needs N > k."""
    return neighbours(a, k)[0][:, -1]


def inside(squared: Tensor, radii: Tensor) -> Tensor:
    """Return whether squared distances lie within balls of squared `radii`; the border belongs to the ball."""
    return squared <= radii * _BORDER


def mean_distance(a: Tensor, members: Tensor) -> float:
    """Return the mean distance over all pairs of different rows of `a` [N D] at the places `members`, at least 2."""
    total = 0.0
    parts = members.split(_TILE)
    for i, rows in enumerate(parts):
        for columns in parts[i:]:  # a pair has one distance: half of the tiles will do
            distances = squared_distances(a[rows], a[columns]).sqrt_()
            total += float(distances.sum()) * (1 if columns is rows else 2)
    return total / (len(members) * (len(members) - 1))
