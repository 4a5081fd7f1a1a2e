"""A batch of packed images, from the file of the array to tensors in [-1, 1].

Between the stage `dataset`, which wrote the array, and the engine, which trains. Which images a batch has is a pure
function of (seed, images_seen, rank), so that a resumed or re-sharded run sees the same data. Knows nothing of
augmentation, devices or how the images came about.
"""

import math
import os
import weakref
from functools import lru_cache
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from genxfer.errors import DataError

# Up to this size, little beside torch itself, a file is memory-mapped and a batch is one gather. Beyond, each image is
# a read of its own: pages of a map count as this process' memory once touched, how many one touch maps is up to the
# kernel, and giving them back in time took as long as these reads, and twice as long from a disk.
MAPPED_BYTES = 64 << 20


class PackedImages:
    """Images [N C H W], uint8, of a NumPy file; those of a large one are read as they are needed.

    However large the file, it takes at most MAPPED_BYTES of memory; the kernel's page cache, which shrinks when others
    need room, keeps what it can of the rest.
    """

    def __init__(self, path: Path) -> None:
        """Open `path`; raises DataError when it does not hold packed images."""
        try:
            array = np.load(path, mmap_mode="r", allow_pickle=False)
            self._file = os.open(path, os.O_RDONLY)
        except (OSError, ValueError) as error:
            raise DataError(f"{path} cannot be read as packed images: {error}") from error
        weakref.finalize(self, os.close, self._file)
        if array.dtype != np.uint8 or array.ndim != 4 or not array.flags.c_contiguous:
            raise DataError(f"{path} holds {array.dtype} {array.shape}, not uint8 images [N C H W].")
        self._path, self._start_bytes = path, array.offset
        self._length, *self._shape = array.shape
        self._mapped = np.asarray(array) if array.nbytes <= MAPPED_BYTES else None

    def __len__(self) -> int:
        return self._length

    @property
    def shape(self) -> tuple[int, int, int]:
        """Channels, height and width of an image."""
        channels, height_px, width_px = self._shape
        return channels, height_px, width_px

    def batch(self, indices: NDArray[np.int64]) -> Tensor:
        """Return the images `indices` [B] as uint8 [B C H W], a copy.

        Raises IndexError for an image that the file does not have, DataError when the file has become shorter.
        """
        if self._mapped is not None:
            return torch.from_numpy(self._mapped[indices])
        if len(indices) and not 0 <= indices.min() <= indices.max() < self._length:
            raise IndexError(f"images {indices.min()} to {indices.max()} of {self._length}")
        images = np.empty((len(indices), *self._shape), np.uint8)
        places_bytes = self._start_bytes + indices.astype(np.int64) * math.prod(self._shape)
        for image, place_bytes in zip(images, places_bytes.tolist(), strict=True):
            if os.preadv(self._file, [image], place_bytes) < image.nbytes:
                raise DataError(f"{self._path} has become shorter since it was opened. Pack the images again.")
        return torch.from_numpy(images)


def indices(n: int, seed: int, images_seen: int, batch: int, rank: int = 0, world_size: int = 1) -> NDArray[np.int64]:
    """Return which of `n` images the ranks see after `images_seen`: this rank's share of a global batch of `batch`.

    Every epoch is a permutation of its own, a batch may reach into the next one, and the shares of all ranks in order
    are the batch that one rank would see. Raises ValueError when `batch` does not divide among the ranks.
    """
    if batch % world_size or not 0 <= rank < world_size:
        raise ValueError(f"a batch of {batch} has no share for rank {rank} of {world_size}")
    share = batch // world_size
    first = images_seen + rank * share
    after = first + share
    parts = [
        _permutation(n, seed, epoch)[max(first - epoch * n, 0) : after - epoch * n]
        for epoch in range(first // n, (after - 1) // n + 1)
    ]
    return np.concatenate(parts)


@lru_cache(maxsize=2)
def _permutation(n: int, seed: int, epoch: int) -> NDArray[np.int64]:
    """Return the order of the `n` images in `epoch`; the last two are kept, as a batch may reach from one to the next.

    The only memory that grows with `n`: 16 bytes an image, and 24 while another order is drawn: 3 MB for 200,000
    images, 1.2 GB for 50 million.
    """
    permutation = np.random.default_rng([seed, epoch]).permutation(n)
    permutation.flags.writeable = False  # it is shared by whoever asks again
    return permutation


def to_model_range(images: Tensor, memory_format: torch.memory_format = torch.preserve_format) -> Tensor:
    """Return uint8 images as float32 in [-1, 1]; with `to_uint8` the only place that knows of both ranges."""
    return images.to(torch.float32, memory_format=memory_format).div_(127.5).sub_(1)


def to_uint8(images: Tensor) -> Tensor:
    """Return images in [-1, 1], of any floating type, as uint8, rounded; what lies outside is clamped."""
    return images.float().add(1).mul_(127.5).round_().clamp_(0, 255).to(torch.uint8)
