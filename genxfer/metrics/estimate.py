"""What a metric answers: numbers by name, how far chance may have moved them, and what must be said beside them.

Knows nothing of features or images, and is read without importing torch.
"""

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from torch import Tensor

TWO_SIDED_95 = 1.959964  # standard errors to either side of a normal estimate that hold 95 %

Interval = tuple[float, float]


@dataclass(frozen=True)
class LeftOut:
    """The values of one estimate without each image in turn: of the real ones [N], and of the fake ones [M]."""

    real: "Tensor"
    fake: "Tensor"


@dataclass(frozen=True)
class Estimate:
    """A measured value; what tells of chance covers the draw of the images, not the training run behind them."""

    value: float
    standard_error: float | None = None
    interval: Interval | None = None  # of 95 % confidence
    left_out: LeftOut | None = field(default=None, repr=False, compare=False)


@dataclass(frozen=True)
class Pair:
    """A sample and the training image nearest to it, by their places in the two sets, to be shown side by side.

    `spacing` is the distance of that training image to the nearest other one, in the same features as `distance`.
    """

    sample: int
    train: int
    distance: float
    spacing: float


@dataclass(frozen=True)
class Measurement:
    """All that one metric, or several, found out about one set of fake images."""

    numbers: Mapping[str, Estimate]
    yardsticks: Mapping[str, float] = field(default_factory=dict)  # of real images alone: the same for every model
    facts: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)  # number -> what else is known of it
    notes: tuple[str, ...] = ()  # what a reader of the numbers must know
    pairs: tuple[Pair, ...] = ()  # the samples that come closest to training images, the closest first

    def flat(self, suffix: str = "") -> dict[str, Any]:
        """Return the numbers as metrics.json has them: kid, kid_standard_error, kid_ci, with `suffix` after the name.

        The yardsticks are not among them, as they have no suffix.
        """
        values: dict[str, Any] = {}
        for name, estimate in self.numbers.items():
            values[f"{name}{suffix}"] = estimate.value
            if estimate.standard_error is not None:
                values[f"{name}{suffix}_standard_error"] = estimate.standard_error
            if estimate.interval is not None:
                values[f"{name}{suffix}_ci"] = list(estimate.interval)
            values |= {f"{name}{suffix}_{fact}": value for fact, value in self.facts.get(name, {}).items()}
        return values


def jackknife_variance(left_out: "Tensor") -> float:
    """Return the delete-one jackknife variance from the values [N] of an estimate without each image in turn.

    Tukey 1958; for a statistic of two independent samples the variances of the two add up (Arvesen 1969).
    """
    n = len(left_out)
    return float((left_out - left_out.mean()).square().sum() * (n - 1) / n)


def normal_interval(value: float, standard_error: float) -> Interval:
    """Return the 95 % confidence interval of a value whose error is about normal."""
    half = TWO_SIDED_95 * standard_error
    return value - half, value + half


def transfer_gain(from_scratch: Estimate, transferred: Estimate) -> Estimate | None:
    """Return metric(from scratch) / metric(transferred): how many times nearer to the test images transfer ends.

    None when either value is not positive: KID is unbiased, so near 0 it may fall below, and a ratio means nothing.
    The 95 % interval is that of the jackknife on the ratio's logarithm: both models are compared with the same real
    images, whose draw moves both values alike and leaves their ratio steadier than independent errors would; the two
    sets of samples are taken as independent. There is none where either value is within two standard errors of 0.
    """
    if from_scratch.value <= 0 or transferred.value <= 0:
        return None
    gain = from_scratch.value / transferred.value
    return Estimate(gain, interval=_gain_interval(gain, from_scratch, transferred))


def _gain_interval(gain: float, a: Estimate, b: Estimate) -> Interval | None:
    if a.left_out is None or b.left_out is None or not (_clear_of_zero(a) and _clear_of_zero(b)):
        return None
    left_out = [a.left_out.real, b.left_out.real, a.left_out.fake, b.left_out.fake]
    if min(float(values.min()) for values in left_out) <= 0:
        return None
    over_real = jackknife_variance(left_out[0].log() - left_out[1].log())
    over_fake = jackknife_variance(left_out[2].log()) + jackknife_variance(left_out[3].log())
    low, high = normal_interval(math.log(gain), math.sqrt(over_real + over_fake))
    return math.exp(low), math.exp(high)


def _clear_of_zero(estimate: Estimate) -> bool:
    return estimate.standard_error is not None and estimate.value > 2 * estimate.standard_error
