"""A snapshot's two files become images: the code that travels with every registered version.

It may import what `packaging.py` copies beside it, torch and numpy, and nothing else. Knows nothing of MLflow.
"""

from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from genxfer.data.dataset import to_uint8
from genxfer.models.family import sample
from genxfer.training.snapshot import family_of, load_snapshot

MAX_SEED = 2**32 - 1


class SnapshotSampler:
    """The nets of one snapshot, ready to draw."""

    def __init__(self, weights: Path, description: Path) -> None:
        """Load the two files of a snapshot; raises TrainingError when they do not fit."""
        self.family = family_of(load_snapshot(weights, description))

    def images(self, n: int, seed: int) -> NDArray[np.uint8]:
        """Return uint8 images [n H W C]; image i depends on `seed` and i alone. Raises ValueError out of range."""
        if n < 1:
            raise ValueError(f"n is {n}; it is the number of images to draw, at least 1")
        if not 0 <= seed <= MAX_SEED:
            raise ValueError(f"seed is {seed}; allowed is 0 to {MAX_SEED}")
        drawn = to_uint8(sample(self.family, self.family.nets, n, seed))
        return drawn.permute(0, 2, 3, 1).contiguous().numpy()
