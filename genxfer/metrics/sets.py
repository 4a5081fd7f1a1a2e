"""What every metric is given: the features of the real, the fake and the training images.

Knows nothing of extractors or of what is computed from the features.
"""

from dataclasses import dataclass

import torch
from torch import Tensor

from genxfer.errors import DataError, ParameterError

_ROWS = 4096  # that are looked at together: torch makes copies of them


class TooFewImagesError(DataError):
    """A metric that these sets are too small for."""


@dataclass(frozen=True)
class FeatureSets:
    """Features, in any floating type, of real images held out from training, of fake ones, and of the training images.

    Raises DataError when the sets do not have the same features, or a feature is not finite.
    """

    real: Tensor  # [N D]
    fake: Tensor  # [M D]
    train: Tensor | None = None  # [T D]

    def __post_init__(self) -> None:
        """Check once what all metrics rely on."""
        sides = {name: side for name, side in vars(self).items() if side is not None}
        shapes = {name: list(side.shape) for name, side in sides.items()}
        if any(side.ndim != 2 for side in sides.values()) or len({side.shape[1] for side in sides.values()}) > 1:
            raise DataError(f"The features have shapes {shapes}; metrics take [images features] of one width.")
        for name, side in sides.items():
            if not all(torch.isfinite(rows).all() for rows in side.split(_ROWS)):
                raise DataError(f"Features of the {name} images are not finite: these images cannot be compared.")

    def check(self, metric: str, least: int) -> None:
        """Raise TooFewImagesError unless there are `least` real and `least` fake images."""
        if min(len(self.real), len(self.fake)) < least:
            raise TooFewImagesError(
                f"{metric} needs at least {least} images on each side and was given {len(self.real)} real and "
                f"{len(self.fake)} fake ones."
            )

    def training(self, metric: str, least: int) -> Tensor:
        """Return `train`; raises ParameterError without it, TooFewImagesError below `least`."""
        if self.train is None:
            raise ParameterError(f"{metric} compares samples with the training images, and none were given.")
        if len(self.train) < least:
            raise TooFewImagesError(f"{metric} needs at least {least} training images and was given {len(self.train)}.")
        return self.train
