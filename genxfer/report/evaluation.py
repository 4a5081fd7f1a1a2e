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
    interval: tuple[float, float] | None = None  # of 95 % confidence


@dataclass(frozen=True)
class RealImages:
    """Images of a domain: some to show, uint8 [N C H W], and how many there are of them."""

    shown: NDArray[np.uint8]
    name: str  # what people call it, such as "MNIST" or "data/cats"
    n: int


@dataclass(frozen=True)
class Samples:
    """Samples of one model: some to show, uint8 [N C H W], and its metrics against the test images by name."""

    shown: NDArray[np.uint8]
    metrics: Mapping[str, Number]  # "kid" is always there, with a standard error


@dataclass(frozen=True)
class Film:
    """What the same noises became over one training: frames uint8 [F K C H W], after so many kimg each."""

    frames: NDArray[np.uint8]
    kimg: tuple[float, ...]
    published_kimg: float | None  # of what is published, where validation chose it


@dataclass(frozen=True)
class Published:
    """Which moment of fine-tuning is published, and how it scored on the validation images; None: none was chosen."""

    kimg: float | None
    validation_kid: float | None
    final_kimg: float
    final_validation_kid: float | None  # None also where it was no number
    extractor: str  # of both these KIDs


@dataclass(frozen=True)
class Shares:
    """Shares, 0 to 1, of images that are close to training images: of samples, of unseen real ones, what is allowed."""

    samples: float
    real: float
    allowed: float


@dataclass(frozen=True)
class Copying:
    """Whether transferred samples repeat training images: how many are copies of one, and how many lie next to one.

    `pairs` uint8 [P 2 C H W] are the samples closest to a training image, each with that image.
    """

    copies: Shares
    near: Shares
    passed: bool
    pairs: NDArray[np.uint8]


@dataclass(frozen=True)
class Likeness:
    """The transferred samples nearest to, and farthest from, any test image, each with the nearest: [P 2 C H W]."""

    most: NDArray[np.uint8]
    least: NDArray[np.uint8]


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
    transfer_gain: Number | None
    measured: Measured
    yardsticks: Mapping[str, float] = field(default_factory=dict)  # of real images: diversity_real, ...
    notes: tuple[str, ...] = ()  # what the metrics say must be known
    copying: Copying | None = None  # None where it was not measured
    likeness: Likeness | None = None
    interpolations: NDArray[np.uint8] | None = None  # [rows steps C H W], from one transferred sample to another
    films: Mapping[str, Film] = field(default_factory=dict)  # by stage: finetune, baseline
    published: Published | None = None
    curves: Mapping[str, Curves] = field(default_factory=dict)  # by stage: pretrain, finetune, baseline
    layer_groups: tuple[LayerGroupRow, ...] = ()
    said_of_moves: str = ""  # beside what moved: what happened later
    lineage: Mapping[str, Mapping[str, str]] = field(default_factory=dict)  # heading -> name -> value
