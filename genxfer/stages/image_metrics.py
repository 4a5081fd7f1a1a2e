"""Any two folders or archives of images compared: the verb `metrics`, without params.yaml, store or pipeline.

Image files are decoded on threads while the features of those before are computed. Images may have mixed sizes: each
goes to the extractor's own, uncropped, unless a resolution is asked for. Knows nothing of models.
"""

import importlib.metadata
import logging
import os
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from genxfer.artifacts.closure import code_digests
from genxfer.artifacts.disk import permitted
from genxfer.artifacts.fingerprint import canonical_json, digest_bytes
from genxfer.data.config import ArchiveSource, FolderSource
from genxfer.data.raw import raw_digest
from genxfer.errors import DataError, ParameterError
from genxfer.metrics import (
    EXTRACTOR_PACKAGES,
    EXTRACTORS,
    METRICS,
    NEED_TRAINING_IMAGES,
    check_known,
    check_weights,
    load_extractor,
)

if TYPE_CHECKING:
    from PIL import Image
    from torch import Tensor

    from genxfer.data.sources import RawImages
    from genxfer.metrics.features import Extractor

logger = logging.getLogger("genxfer.metrics")

# Formats that Pillow names files of and decodes none of: it only writes them, or tells of what they hold.
_NOT_DECODED = {"BUFR", "GRIB", "HDF5", "MPEG", "PALM", "PDF", "WMF"}

_CHUNK = 16  # images that a thread decodes at a time


@dataclass(frozen=True)
class Comparison:
    """What is compared, and how: everything that the command line can say."""

    real: str
    fake: str
    train: str | None = None
    extractor: str = "lite0"
    weights: str | None = None
    metrics: tuple[str, ...] | None = None  # None: all that the images allow
    resolution_px: int | None = None
    cache: Path | None = None  # keeps the features of the real and the training images


def compare(comparison: Comparison) -> dict[str, Any]:
    """Return the numbers as metrics.json has them, all that they depend on, and the samples closest to training images.

    Raises ParameterError on unknown names and weights that are of no use, DataError on images that are missing, too few
    or not readable.
    """
    names = _metrics(comparison)
    check_known("--extractor", comparison.extractor, EXTRACTORS)
    check_weights(comparison.extractor, comparison.weights, key="--extractor", weights_key="--weights")
    sides = {side: place for side in ("real", "fake", "train") if (place := getattr(comparison, side)) is not None}
    opened = {side: _open(place) for side, place in sides.items()}
    import torch

    from genxfer.metrics.measure import measure
    from genxfer.metrics.sets import FeatureSets

    device = "cuda" if torch.cuda.is_available() else "cpu"
    extractor = load_extractor(comparison.extractor, device, comparison.weights)
    features = {
        side: images.features(extractor, comparison.resolution_px, None if side == "fake" else comparison.cache)
        for side, images in opened.items()
    }
    measured = measure(names, FeatureSets(**features), required=comparison.metrics or ("kid",))
    pairs = [
        {
            "sample": opened["fake"].names[pair.sample],
            "train": opened["train"].names[pair.train],
            "distance": pair.distance,
            "spacing": pair.spacing,
        }
        for pair in measured.pairs
    ]
    numbers = measured.flat() | dict(measured.yardsticks) | {"notes": list(measured.notes)}
    of_images: dict[str, Any] = {f"n_{side}": len(images.names) for side, images in opened.items()}
    of_images |= {f"{side}_digest": images.digest for side, images in opened.items()}
    return numbers | ({"closest": pairs} if pairs else {}) | of_images | _provenance(comparison, extractor, features)


def _metrics(comparison: Comparison) -> tuple[str, ...]:
    """Return the metrics to take; raises ParameterError on one that is unknown or lacks the training images."""
    if comparison.metrics is None:
        return tuple(name for name in METRICS if comparison.train or name not in NEED_TRAINING_IMAGES)
    for name in comparison.metrics:
        check_known("--metrics", name, METRICS)
        if name in NEED_TRAINING_IMAGES and comparison.train is None:
            raise ParameterError(f"--metrics names {name}, which compares samples with training images: add --train.")
    return comparison.metrics


def _provenance(comparison: Comparison, extractor: "Extractor", features: dict[str, "Tensor"]) -> dict[str, Any]:
    packages = ("genxfer", "torch", *EXTRACTOR_PACKAGES[extractor.name])
    return {
        "extractor": extractor.name,
        "extractor_digest": extractor.digest,
        "feature_size": features["real"].shape[1],
        "resolution_px": comparison.resolution_px,
        "seed": None,  # nothing is drawn: every image and every pair of them counts
        "versions": {name: importlib.metadata.version(name) for name in packages},
    }


@dataclass(frozen=True)
class _Images:
    """The image files of one place; files of other kinds beside them are passed by."""

    place: str
    raw: "RawImages"
    chosen: list[int]
    digest: str

    @property
    def names(self) -> list[str]:
        return [self.raw.names[index] for index in self.chosen]

    def features(self, extractor: "Extractor", resolution_px: int | None, cache: Path | None) -> "Tensor":
        """Return the features [N D], from the folder `cache` where they are there."""
        if cache is None:
            return extractor.features(self._decoded(resolution_px))
        from genxfer.metrics.cache import cached_features

        key = digest_bytes(canonical_json(self._decides(resolution_px)).encode())
        return cached_features(cache, key, extractor, lambda: extractor.features(self._decoded(resolution_px)))

    def _decides(self, resolution_px: int | None) -> dict[str, Any]:
        """Return all that the pixels depend on: files alone tell neither which are images nor how they are decoded."""
        return {
            "files": self.digest,
            "resolution_px": resolution_px,
            "pillow": importlib.metadata.version("pillow"),
            "code": code_digests(["genxfer.stages.image_metrics:_open"]),
        }

    def _decoded(self, resolution_px: int | None) -> Iterator["Tensor"]:
        """Yield every image, uint8 [C H W], in order."""
        from genxfer.metrics.features import side_by_side

        def decode(chunk: Sequence[tuple[str, "Callable[[], Image.Image] | DataError"]]) -> list["Tensor"]:
            return [self._image(name, load, resolution_px) for name, load in chunk]

        places = [self.chosen[start : start + _CHUNK] for start in range(0, len(self.chosen), _CHUNK)]
        chunks = ([self._fetched(index) for index in chunk] for chunk in places)
        for decoded in side_by_side(decode, chunks, min(4, os.cpu_count() or 1) + 1):
            yield from decoded

    def _fetched(self, index: int) -> "tuple[str, Callable[[], Image.Image] | DataError]":
        """Read what must be read in order; what cannot be is told in its turn."""
        try:
            return self.raw.names[index], self.raw.fetch(index)
        except DataError as reason:
            return self.raw.names[index], reason

    def _image(self, name: str, load: "Callable[[], Image.Image] | DataError", resolution_px: int | None) -> "Tensor":
        import numpy as np
        import torch

        from genxfer.data.prepare import eight_bit, prepare

        try:
            if isinstance(load, DataError):
                raise load
            image = load()
            if resolution_px is not None:
                channels = 1 if image.mode in ("1", "L", "I", "I;16") else 3
                return torch.from_numpy(np.array(prepare(image, resolution_px, channels)[0]))
            pixels = np.array(eight_bit(image))
        except DataError as reason:
            raise DataError(
                f"{name} in {self.place} cannot be read: {reason}. Repair it or take it out: a number over the "
                "rest would be one of other images."
            ) from reason
        return torch.from_numpy(pixels if pixels.ndim == 3 else pixels[..., None]).permute(2, 0, 1).contiguous()


def _open(place: str) -> _Images:
    """Return the images of a folder or archive; raises DataError when it is missing or has none."""
    from PIL import Image

    from genxfer.data.sources import open_source

    path = Path(place)
    with permitted(f"{place} cannot be read", DataError):
        there = path.exists()
    if not place or not there:  # of no name, such as from a variable that is not set, is this folder to `Path`
        raise DataError(
            f"There is no {place or repr(place)}. Name a folder of images, or a zip or tar archive of them."
        )
    source = FolderSource(path=place) if path.is_dir() else ArchiveSource(path=place)
    raw = open_source(source)
    known = {extension for extension, kind in Image.registered_extensions().items() if kind not in _NOT_DECODED}
    chosen = [index for index, name in enumerate(raw.names) if Path(name).suffix.lower() in known]
    if not chosen:
        raise DataError(f"{place} has no image files among its {len(raw)} files. Name a folder that has.")
    if len(chosen) < len(raw):
        logger.info("%s: %d files that are no images passed by", place, len(raw) - len(chosen))
    return _Images(place, raw, chosen, raw_digest(source))
