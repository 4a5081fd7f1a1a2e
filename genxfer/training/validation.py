"""How near a run's averaged nets have come to images that it never trains on: the validation KID.

Between the loop, which says when, and the metrics room, whose KID this is: of lite0 features, but of few samples and in
the run's own precision, so that it costs little. It ranks the moments of one run and is never a reported number. The
test images, from which those come, are not known here.
"""

import json
from contextlib import AbstractContextManager
from functools import cached_property
from typing import TYPE_CHECKING

import numpy as np
import torch
from torch import Tensor, nn

from genxfer.data.dataset import PackedImages, to_uint8
from genxfer.metrics import load_extractor
from genxfer.models.family import Family, sample
from genxfer.training.config import SCORE_EXTRACTOR, TrainConfig
from genxfer.training.distributed import World
from genxfer.training.filmstrip import FRAME_IMAGES
from genxfer.training.precision import Precision
from genxfer.training.score import score
from genxfer.training.seeds import noise_seed

if TYPE_CHECKING:
    from genxfer.metrics.features import Extractor

FEWEST_IMAGES = 3  # for a KID
EXTRACTED_AT_ONCE = 32  # in bf16 on a processor the fastest: 2.0 ms an image, 2.7 with 16, 2.8 with 64


class Validation:
    """Scores nets by their samples from always the same noise; the leader computes, all ranks hear the result.

    The extractor is loaded and the features of the validation images are taken once, at the first score.
    """

    def __init__(
        self,
        images: PackedImages,
        config: TrainConfig,
        precision: Precision,
        world: World,
        extractor: "Extractor | None" = None,
    ) -> None:
        """Hold `images`, at least FEWEST_IMAGES; `extractor` stands in for lite0."""
        self.images, self.world, self.precision = images, world, precision
        self.n_samples = config.validation_samples
        self.seed = noise_seed(config.seed, 0, "validation") % 2**31  # other noise than that of the evaluation
        self._extractor = extractor
        self.frame: np.ndarray | None = None  # the first images that were last drawn, uint8 [6 C H W]; on the leader

    def score(self, family: Family, nets: nn.ModuleDict) -> float:
        """Return the KID of samples that `nets` draw, the same on all ranks; NaN when they are not finite."""
        content = json.dumps(self._score(family, nets)).encode() if self.world.leader else None
        told = self.world.broadcast(content)
        assert told is not None
        return float(json.loads(told))

    def draw(self, family: Family, nets: nn.ModuleDict, n: int = FRAME_IMAGES) -> Tensor:
        """Return `n` images [n C H W] that `nets` draw, from always the same noise; the first ones are the frame."""
        with self._in_precision():
            drawn = sample(family, nets, max(n, FRAME_IMAGES), self.seed)
        self.frame = to_uint8(drawn[:FRAME_IMAGES].nan_to_num()).numpy()
        return drawn[:n]

    def _score(self, family: Family, nets: nn.ModuleDict) -> float:
        drawn = self.draw(family, nets, self.n_samples)
        if not drawn.isfinite().all():
            return float("nan")
        return score(self.reference, self._features(to_uint8(drawn))).value

    @cached_property
    def reference(self) -> Tensor:
        """The features [N D] of the validation images."""
        return self._features(self.images.batch(np.arange(len(self.images))))

    @cached_property
    def extractor(self) -> "Extractor":
        """The feature extractor, on the device of the training."""
        return self._extractor or load_extractor(SCORE_EXTRACTOR, str(self.world.device))

    def _features(self, images: Tensor) -> Tensor:
        at_once = EXTRACTED_AT_ONCE if self.world.device.type == "cpu" else None
        with self._in_precision():
            return self.extractor.features(images, at_once)

    def _in_precision(self) -> AbstractContextManager[None]:
        return torch.autocast(self.world.device.type, torch.bfloat16, enabled=self.precision == "bf16")
