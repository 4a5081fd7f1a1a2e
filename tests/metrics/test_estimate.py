"""The transfer gain and its interval."""

import math

import numpy as np
import pytest

from genxfer.metrics.estimate import Estimate, Measurement, normal_interval, transfer_gain
from genxfer.metrics.kid import squared_discrepancy as kid
from tests.metrics.feature_samples import gaussian


def test_the_transfer_gain_is_a_ratio_and_none_where_a_ratio_means_nothing() -> None:
    gain = transfer_gain(Estimate(0.06), Estimate(0.02))
    assert gain is not None
    assert gain.value == pytest.approx(3.0)
    assert gain.interval is None  # nothing is known of the errors
    assert transfer_gain(Estimate(0.06), Estimate(-0.001)) is None
    assert transfer_gain(Estimate(0.0), Estimate(0.02)) is None


def gain_of_draw(seed: int, shift: float = 0.5) -> Estimate:
    real, scratch, transferred = (
        gaussian(n, 6, seed=3 * seed + i, shift=s) for i, (n, s) in enumerate(((80, 0.0), (120, 0.8), (120, shift)))
    )
    gain = transfer_gain(kid(real, scratch), kid(real, transferred))
    assert gain is not None
    return gain


def test_the_interval_of_the_gain_holds_the_true_gain_in_95_of_100_draws() -> None:
    real, scratch, transferred = (gaussian(6000, 6, seed=9000 + i, shift=s) for i, s in enumerate((0.0, 0.8, 0.5)))
    truth = kid(real, scratch).value / kid(real, transferred).value
    gains = [gain_of_draw(seed) for seed in range(200)]
    held = sum(gain.interval[0] <= truth <= gain.interval[1] for gain in gains if gain.interval is not None)
    assert 0.90 <= held / 200 <= 0.99


def test_the_interval_knows_that_both_models_are_compared_with_the_same_real_images() -> None:
    gains = []
    for seed in range(80):  # few real images and many fake ones: it is the draw of the real ones that moves both KIDs
        real = gaussian(30, 6, seed=3 * seed)
        scratch, transferred = (gaussian(400, 6, seed=3 * seed + i, shift=1.0) for i in (1, 2))
        gains.append(transfer_gain(kid(real, scratch), kid(real, transferred)))
    spread = np.std([math.log(gain.value) for gain in gains], ddof=1)
    stated = [math.log(gain.interval[1] / gain.interval[0]) / (2 * 1.96) for gain in gains if gain.interval]
    assert len(stated) == 80
    assert 0.75 < np.sqrt(np.mean(np.square(stated))) / spread < 1.35


def test_a_gain_over_a_value_that_may_be_zero_has_no_interval() -> None:
    gain = transfer_gain(
        kid(gaussian(60, 6, 0), gaussian(60, 6, 1, shift=1.0)), kid(gaussian(60, 6, 0), gaussian(60, 6, 5))
    )
    assert gain is None or gain.interval is None


def test_the_numbers_are_laid_out_flat_with_the_model_after_the_name() -> None:
    measured = Measurement(
        {"kid": Estimate(0.5, 0.1, (0.3, 0.7)), "memorization": Estimate(0.25)},
        {"memorization_heldout": 0.2},
        {"memorization": {"passed": True}},
    )
    assert measured.flat("_scratch") == {
        "kid_scratch": 0.5,
        "kid_scratch_standard_error": 0.1,
        "kid_scratch_ci": [0.3, 0.7],
        "memorization_scratch": 0.25,
        "memorization_scratch_passed": True,
    }


def test_a_normal_interval_is_1_96_standard_errors_to_either_side() -> None:
    assert normal_interval(1.0, 0.5) == pytest.approx((1 - 0.98, 1 + 0.98), abs=1e-4)
