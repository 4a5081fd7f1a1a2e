"""Held-out target images that the source domain shows too, where a model is pretrained on them.

Between the packs of the two domains, which know nothing of each other, and the stages that train on one and measure on
the other. What counts as the same is for `duplicates.py` to say. Knows nothing of stages or of the store.
"""

from collections.abc import Mapping
from pathlib import Path
from typing import NamedTuple

import numpy as np

from genxfer.data.duplicates import describe, twins


class Shared(NamedTuple):
    """A held-out target image that has a near-duplicate in the source domain: the place of each in its file."""

    part: str  # validation or test
    held_out: int
    source: int


def shared(source: Path, held_out: Mapping[str, Path]) -> list[Shared]:
    """Return every image of the parts `held_out` that has a near-duplicate in `source`, with the first one there.

    All are packed images [N C H W], uint8, of one size. 5,000 images beside 1,700 take an eighth of a second.
    """
    trained_on = describe(np.load(source, mmap_mode="r"))
    return [
        Shared(part, twin.image, twin.twin)
        for part, file in held_out.items()
        for twin in twins(trained_on, describe(np.load(file, mmap_mode="r")))
    ]
