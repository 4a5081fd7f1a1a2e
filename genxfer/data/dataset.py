"""A batch of packed images, from the memory-mapped array to tensors in [-1, 1].

Between the stage `dataset`, which wrote the array, and the engine, which trains. Which images a batch has is a pure
function of (seed, images_seen, rank), so that a resumed or re-sharded run sees the same data. Knows nothing of
augmentation, devices or how the images came about.
"""

from functools import lru_cache
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from genxfer.errors import DataError


class PackedImages:
    """Images [N C H W], uint8, read from a NumPy file as they are needed."""

    def __init__(self, path: Path) -> None:
        """Map `path`; raises DataError when it does not hold packed images."""
        try:
            array = np.load(path, mmap_mode="r", allow_pickle=False)
        except (OSError, ValueError) as error:
            raise DataError(f"{path} cannot be read as packed images: {error}") from error
        if array.dtype != np.uint8 or array.ndim != 4:
            raise DataError(f"{path} holds {array.dtype} {array.shape}, not uint8 images [N C H W].")
        self._array = np.asarray(array)

    def __len__(self) -> int:
        return len(self._array)

    @property
    def shape(self) -> tuple[int, int, int]:
        """Channels, height and width of an image."""
        _, channels, height_px, width_px = self._array.shape
        return channels, height_px, width_px

    def batch(self, indices: NDArray[np.int64]) -> Tensor:
        """Return the images `indices` [B] as uint8 [B C H W], a copy."""
        return torch.from_numpy(self._array[indices])


def indices(n: int, seed: int, images_seen: int, batch: int, rank: int = 0, world_size: int = 1) -> NDArray[np.int64]:
    """Return which of `n` images the ranks see after `images_seen`: this rank's share of a global batch of `batch`.

    Every epoch is a permutation of its own, a batch may reach into the next one, and the shares of all ranks in order
    are the batch that one rank would see. Raises ValueError when `batch` does not divide among the ranks.
    """
    if batch % world_size or not 0 <= rank < world_size:
        raise ValueError(f"a batch of {batch} has no share for rank {rank} of {world_size}")
    share = batch // world_size
    positions = images_seen + rank * share + np.arange(share)
    chosen = np.empty(share, np.int64)
    for epoch in range(positions[0] // n, positions[-1] // n + 1):
        within = positions // n == epoch
        chosen[within] = _permutation(n, seed, epoch)[positions[within] % n]
    return chosen


@lru_cache(maxsize=4)
def _permutation(n: int, seed: int, epoch: int) -> NDArray[np.int64]:
    permutation = np.random.default_rng([seed, epoch]).permutation(n)
    permutation.flags.writeable = False  # it is shared by whoever asks again
    return permutation


def to_model_range(images: Tensor) -> Tensor:
    """Return uint8 images as float32 in [-1, 1]; with `to_uint8` the only place that knows of both ranges."""
    return images.float().div_(127.5).sub_(1)


def to_uint8(images: Tensor) -> Tensor:
    """Return images in [-1, 1], of any floating type, as uint8, rounded; what lies outside is clamped."""
    return images.float().add(1).mul_(127.5).round_().clamp_(0, 255).to(torch.uint8)
