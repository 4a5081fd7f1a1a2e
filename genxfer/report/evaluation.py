"""What the page of one evaluation shows, as plain data: pictures as arrays, numbers with all that they depend on.

Filled in by the evaluate stage, read by `verdict.py` and `page.py`. Knows nothing of HTML or of how a number was found.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from genxfer.report.curves import Curves


@dataclass(frozen=True)
class Number:
    """A measured value, and how far the draw of the images may have moved it where the metric can tell."""

    value: float
    standard_error: float | None = None


@dataclass(frozen=True)
class RealImages:
    """Images of a domain: some to show, uint8 [N C H W], and how many there are of them."""

    shown: NDArray[np.uint8]
    name: str  # such as "mnist" or "data/target"
    n: int


@dataclass(frozen=True)
class Samples:
    """Samples of one model: some to show, uint8 [N C H W], and its metrics against the test images by name."""

    shown: NDArray[np.uint8]
    metrics: Mapping[str, Number]  # "kid" is always there, with a standard error


@dataclass(frozen=True)
class Measured:
    """What every number on the page depends on beside the models."""

    n_samples: int
    n_reference: int
    extractor: str
    feature_size: int
    weights_digest: str
    reference_digest: str
    seed: int


@dataclass(frozen=True)
class LayerGroupRow:
    """One layer group of one net: how many parameters it has, and how many of them fine-tuning moved."""

    net: str
    group: str
    parameters: int
    moving: int


@dataclass(frozen=True)
class EvaluationReport:
    """One evaluation: was the transfer worth it, shown and counted.

    `from_scratch` is None without a baseline, `source` when the source model came from elsewhere without its images.
    """

    family: str
    method: str
    source: RealImages | None
    target: RealImages
    test: RealImages
    source_only: Samples
    from_scratch: Samples | None
    transferred: Samples
    transfer_gain: float | None
    measured: Measured
    curves: Mapping[str, Curves] = field(default_factory=dict)  # by stage: pretrain, finetune, baseline
    layer_groups: tuple[LayerGroupRow, ...] = ()
    thaw_every_kimg: float | None = None
    lineage: Mapping[str, Mapping[str, str]] = field(default_factory=dict)  # heading -> name -> value
