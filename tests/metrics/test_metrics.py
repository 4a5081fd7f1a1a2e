"""FID and KID against torch-fidelity and closed forms; for every registered metric, what any of them must satisfy."""

import math

import numpy as np
import pytest
import torch
from torch import Tensor
from torch_fidelity.metric_fid import fid_features_to_statistics, fid_statistics_to_metric
from torch_fidelity.metric_kid import KEY_METRIC_KID_MEAN, kid_features_to_metric

from genxfer.errors import DataError, ParameterError
from genxfer.metrics import METRICS, NEED_TRAINING_IMAGES, distances, load_metric
from genxfer.metrics import fid as fid_module
from genxfer.metrics import kid as kid_module
from genxfer.metrics.estimate import Estimate
from genxfer.metrics.fid import Moments, frechet_distance, moments
from genxfer.metrics.kid import squared_discrepancy as kid
from genxfer.metrics.measure import measure
from genxfer.metrics.sets import FeatureSets, TooFewImagesError
from tests.metrics.feature_samples import gaussian, rectified


def fid(real: Tensor, fake: Tensor) -> Estimate:
    return fid_module.fid(FeatureSets(real, fake)).numbers["fid"]


# Enough images for the covariances to be formed, too few on both sides, and too few on one.
@pytest.mark.parametrize(("n", "m", "dimensions"), [(300, 400, 64), (200, 150, 256), (300, 100, 256)])
def test_fid_equals_torch_fidelity(n: int, m: int, dimensions: int) -> None:
    real, fake = rectified(n, dimensions, seed=0), rectified(m, dimensions, seed=1, shift=0.5)
    statistics = [fid_features_to_statistics(features.double()) for features in (real, fake)]
    reference = fid_statistics_to_metric(*statistics, verbose=False)["frechet_inception_distance"]
    assert fid(real, fake).value == pytest.approx(reference, rel=1e-6)


def test_kid_equals_torch_fidelity_when_its_one_subset_is_everything() -> None:
    real, fake = rectified(250, 128, seed=0), rectified(250, 128, seed=1, shift=0.5)
    reference = kid_features_to_metric(real.double(), fake.double(), kid_subsets=1, kid_subset_size=250, verbose=False)
    assert kid(real, fake).value == pytest.approx(reference[KEY_METRIC_KID_MEAN], rel=1e-6)


def test_kid_of_sets_of_different_size_equals_its_definition() -> None:
    real, fake = rectified(60, 16, seed=0).double().numpy(), rectified(35, 16, seed=1, shift=0.3).double().numpy()

    def mean_kernel(a: np.ndarray, b: np.ndarray, same: bool) -> float:
        pairs = [(x @ y / 16 + 1) ** 3 for i, x in enumerate(a) for j, y in enumerate(b) if not (same and i == j)]
        return float(np.mean(pairs))

    expected = mean_kernel(real, real, True) + mean_kernel(fake, fake, True) - 2 * mean_kernel(real, fake, False)
    assert kid(torch.from_numpy(real), torch.from_numpy(fake)).value == pytest.approx(expected, rel=1e-9)


def test_fid_of_two_gaussians_is_the_closed_form() -> None:
    a = Moments(10, torch.tensor([0.0, 1.0]).double(), 9 * torch.diag(torch.tensor([4.0, 9.0]).double()))
    b = Moments(10, torch.tensor([3.0, 5.0]).double(), 9 * torch.diag(torch.tensor([1.0, 16.0]).double()))
    assert frechet_distance(a, b) == pytest.approx((9 + 16) + (2 - 1) ** 2 + (3 - 4) ** 2, rel=1e-12)


def test_fid_of_gaussians_that_do_not_commute_is_the_closed_form() -> None:
    root_a, root_b = (gaussian(5, 5, seed) for seed in (3, 4))
    a, b = root_a @ root_a.T, root_b @ root_b.T
    # In two factors, tr (A B)^(1/2) is the sum of the singular values of root_a^T root_b.
    expected = a.trace() + b.trace() - 2 * torch.linalg.svdvals(root_a.T @ root_b).sum()
    zero = torch.zeros(5, dtype=torch.float64)
    assert frechet_distance(Moments(9, zero, 8 * a), Moments(9, zero, 8 * b)) == pytest.approx(
        float(expected), rel=1e-9
    )


def test_the_standard_error_of_kid_is_the_spread_over_repeated_draws() -> None:
    estimates = [kid(gaussian(80, 6, seed=2 * i), gaussian(120, 6, seed=2 * i + 1, shift=0.4)) for i in range(200)]
    spread = np.std([estimate.value for estimate in estimates], ddof=1)
    stated = np.sqrt(np.mean([estimate.standard_error**2 for estimate in estimates]))
    assert 0.85 < stated / spread < 1.2


def test_the_standard_error_of_kid_is_the_jackknife_done_the_long_way() -> None:
    real, fake = gaussian(12, 4, seed=0), gaussian(9, 4, seed=1, shift=1.0)

    def variance(values: list[float]) -> float:
        return (len(values) - 1) / len(values) * float(np.sum((np.array(values) - np.mean(values)) ** 2))

    def without(features: Tensor, i: int) -> Tensor:
        return torch.cat([features[:i], features[i + 1 :]])

    over_real = variance([kid(without(real, i), fake).value for i in range(len(real))])
    over_fake = variance([kid(real, without(fake, i)).value for i in range(len(fake))])
    assert kid(real, fake).standard_error == pytest.approx(math.sqrt(over_real + over_fake), rel=1e-9)


def test_kid_does_not_depend_on_the_tiles_it_is_taken_in(monkeypatch: pytest.MonkeyPatch) -> None:
    real, fake = rectified(70, 16, seed=0).double(), rectified(50, 16, seed=1).double()
    whole = kid(real, fake)
    monkeypatch.setattr(kid_module, "_TILE", 16)
    tiled = kid(real, fake)
    assert tiled.value == pytest.approx(whole.value, rel=1e-9)
    assert tiled.standard_error == pytest.approx(whole.standard_error, rel=1e-9)


@pytest.mark.parametrize(("shift", "rel"), [(0.5, 1e-6), (0.0, 1e-5)])  # of two distributions, and of one: all cancels
def test_kid_of_float32_features_is_that_of_the_same_ones_in_float64(shift: float, rel: float) -> None:
    real, fake = rectified(700, 256, seed=0), rectified(600, 256, seed=1, shift=shift)
    exact = kid(real.double(), fake.double())
    assert kid(real, fake).value == pytest.approx(exact.value, rel=rel)
    assert kid(real, fake).standard_error == pytest.approx(exact.standard_error, rel=1e-6)


def test_the_interval_of_kid_holds_the_true_value_in_95_of_100_draws() -> None:
    truth = kid(gaussian(6000, 6, seed=1000), gaussian(6000, 6, seed=1001, shift=0.4)).value
    draws = (kid(gaussian(80, 6, seed=2 * i), gaussian(120, 6, seed=2 * i + 1, shift=0.4)) for i in range(200))
    held = sum(draw.interval[0] <= truth <= draw.interval[1] for draw in draws)
    assert 0.90 <= held / 200 <= 0.99


def test_kid_of_two_draws_from_one_distribution_is_zero_within_its_standard_error() -> None:
    for seed in range(5):
        estimate = kid(rectified(400, 32, seed=2 * seed), rectified(300, 32, seed=2 * seed + 1))
        assert abs(estimate.value) < 3 * estimate.standard_error


def test_rounding_puts_no_fid_below_zero() -> None:
    for seed in range(8):
        features = torch.randn(50, 20, generator=torch.Generator().manual_seed(seed))
        for n in (10, 50):
            assert fid(features[:n], features[:n]).value >= 0


def test_kid_and_fid_of_a_set_to_itself_are_about_zero() -> None:
    features, other = rectified(400, 32, seed=0), rectified(400, 32, seed=1, shift=1.0)
    assert -0.05 * kid(features, other).value < kid(features, features).value < 1e-6  # unbiased: a little below 0
    for few in (400, 20):
        assert fid(features[:few], features[:few]).value == pytest.approx(0, abs=1e-6 * fid(features, other).value)


def test_moments_do_not_depend_on_how_many_features_are_taken_at_a_time(monkeypatch: pytest.MonkeyPatch) -> None:
    features = rectified(70, 16, seed=0)
    whole = moments(features)
    monkeypatch.setattr(fid_module, "_ROWS", 16)
    torch.testing.assert_close(moments(features).mean, whole.mean, rtol=1e-12, atol=1e-12)
    torch.testing.assert_close(moments(features).covariance, torch.cov(features.double().T), rtol=1e-10, atol=1e-12)


def test_a_fid_of_fewer_images_than_features_carries_a_note_that_is_logged(caplog: pytest.LogCaptureFixture) -> None:
    few, enough = (FeatureSets(rectified(n, 64, seed=0), rectified(n, 64, seed=1)) for n in (64, 65))
    [note] = measure(["fid"], few, required=()).notes
    assert "64 images" in note
    assert note in caplog.text
    assert measure(["fid"], enough, required=()).notes == ()


def sets(n: int = 90, m: int = 70) -> FeatureSets:
    real, fake, train = rectified(n, 24, 0), rectified(m, 24, 1, shift=0.3), rectified(30, 24, 2)
    return FeatureSets(real.double(), fake.double(), train.double())


def flat(name: str, of: FeatureSets) -> dict[str, float]:
    found = load_metric(name)(of)
    whole = found.flat() | dict(found.yardsticks)
    return {key: value for key, value in whole.items() if not isinstance(value, list)}


@pytest.mark.parametrize("name", METRICS)
def test_a_metric_does_not_depend_on_the_order_of_images(name: str) -> None:
    of = sets()
    order = torch.randperm(70, generator=torch.Generator().manual_seed(0))
    assert of.train is not None
    shuffled = FeatureSets(of.real.flip(0), of.fake[order], of.train.flip(0))
    assert flat(name, shuffled) == pytest.approx(flat(name, of), rel=1e-9)


@pytest.mark.parametrize("name", METRICS)
def test_a_metric_does_not_depend_on_the_tiles_it_is_taken_in(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    whole = flat(name, sets())
    monkeypatch.setattr(kid_module, "_TILE", 16)
    monkeypatch.setattr(distances, "_TILE", 16)
    monkeypatch.setattr(fid_module, "_ROWS", 16)
    assert flat(name, sets()) == pytest.approx(whole, rel=1e-9)


@pytest.mark.parametrize("name", METRICS)
def test_a_metric_says_when_there_are_too_few_images(name: str) -> None:
    with pytest.raises(TooFewImagesError, match="needs"):
        load_metric(name)(FeatureSets(rectified(1, 8, seed=0), rectified(1, 8, seed=1), rectified(1, 8, seed=2)))


@pytest.mark.parametrize("name", METRICS)
def test_a_metric_takes_the_smallest_sets_that_it_says_it_needs(name: str) -> None:
    least = {"kid": 3, "fid": 2, "precision_recall": 4, "density_coverage": 6}.get(name, 2)
    few = FeatureSets(rectified(least, 8, 0), rectified(least, 8, 1), rectified(2, 8, 2))
    assert all(math.isfinite(value) for value in flat(name, few).values())


@pytest.mark.parametrize("name", NEED_TRAINING_IMAGES)
def test_a_metric_of_training_images_says_when_there_are_none(name: str) -> None:
    with pytest.raises(ParameterError, match="training images"):
        load_metric(name)(FeatureSets(rectified(9, 8, seed=0), rectified(9, 8, seed=1)))


def test_what_there_are_too_few_images_for_is_left_out_with_a_note_unless_it_is_required() -> None:
    few = FeatureSets(rectified(5, 8, 0), rectified(5, 8, 1), rectified(5, 8, 2))
    found = measure(METRICS, few, required=("kid",))
    assert {"kid", "fid", "precision", "memorization"} <= found.numbers.keys()
    assert "coverage" not in found.numbers
    assert any(note.startswith("density_coverage was left out: Density and coverage needs") for note in found.notes)
    with pytest.raises(TooFewImagesError):
        measure(METRICS, few, required=METRICS)


def test_features_that_cannot_be_compared_are_refused() -> None:
    with pytest.raises(DataError, match="of one width"):
        FeatureSets(torch.zeros(4, 3), torch.zeros(4, 2))
    with pytest.raises(DataError, match="fake images are not finite"):
        FeatureSets(torch.zeros(4, 3), torch.full((4, 3), torch.nan))
