"""What every metric answers: a number and, where the metric can tell, how far chance may have moved it.

Knows nothing of features or images.
"""

from dataclasses import dataclass


@dataclass(frozen=True)
class Estimate:
    """A measured value; `standard_error` covers the draw of the images, not the training run behind them."""

    value: float
    standard_error: float | None = None


def transfer_gain(from_scratch: Estimate, transferred: Estimate) -> float | None:
    """Return metric(from scratch) / metric(transferred): how many times nearer to the test images transfer ends.

    None when either value is not positive: KID is unbiased, so near 0 it may fall below, and a ratio means nothing.
    """
    if from_scratch.value <= 0 or transferred.value <= 0:
        return None
    return from_scratch.value / transferred.value
