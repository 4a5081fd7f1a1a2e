"""FID and KID against torch-fidelity, closed forms and, for every registered metric, what any of them must satisfy."""

import math

import numpy as np
import pytest
import torch
from torch import Tensor
from torch_fidelity.metric_fid import fid_features_to_statistics, fid_statistics_to_metric
from torch_fidelity.metric_kid import KEY_METRIC_KID_MEAN, kid_features_to_metric

from genxfer.errors import DataError
from genxfer.metrics import METRICS, load_metric
from genxfer.metrics import kid as kid_module
from genxfer.metrics.estimate import Estimate, transfer_gain
from genxfer.metrics.fid import Moments, fid, frechet_distance
from genxfer.metrics.kid import kid


def gaussian(n: int, dimensions: int, seed: int, shift: float = 0.0, scale: float = 1.0) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(n, dimensions, generator=generator, dtype=torch.float64) * scale + shift


def rectified(n: int, dimensions: int, seed: int, shift: float = 0.0) -> Tensor:
    """Features as a net gives them: float32, not negative, correlated."""
    mix = gaussian(dimensions, dimensions, seed=99) / math.sqrt(dimensions)
    return (gaussian(n, dimensions, seed, shift) @ mix + 0.2).clamp(0, 6).float()


@pytest.mark.parametrize(("n", "m", "dimensions"), [(300, 400, 64), (200, 150, 256)])
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
    a = Moments(10, torch.tensor([0.0, 1.0]).double(), torch.diag(torch.tensor([4.0, 9.0]).double()))
    b = Moments(10, torch.tensor([3.0, 5.0]).double(), torch.diag(torch.tensor([1.0, 16.0]).double()))
    assert frechet_distance(a, b) == pytest.approx((9 + 16) + (2 - 1) ** 2 + (3 - 4) ** 2, rel=1e-12)


def test_fid_of_gaussians_that_do_not_commute_is_the_closed_form() -> None:
    root_a, root_b = (gaussian(5, 5, seed) for seed in (3, 4))
    a, b = root_a @ root_a.T, root_b @ root_b.T
    # In two factors, tr (A B)^(1/2) is the sum of the singular values of root_a^T root_b.
    expected = a.trace() + b.trace() - 2 * torch.linalg.svdvals(root_a.T @ root_b).sum()
    zero = torch.zeros(5, dtype=torch.float64)
    assert frechet_distance(Moments(9, zero, a), Moments(9, zero, b)) == pytest.approx(float(expected), rel=1e-9)


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
    real, fake = rectified(70, 16, seed=0), rectified(50, 16, seed=1)
    whole = kid(real, fake)
    monkeypatch.setattr(kid_module, "_TILE", 16)
    tiled = kid(real, fake)
    assert tiled.value == pytest.approx(whole.value, rel=1e-9)
    assert tiled.standard_error == pytest.approx(whole.standard_error, rel=1e-9)


@pytest.mark.parametrize("name", METRICS)
def test_a_metric_of_a_set_to_itself_is_about_zero(name: str) -> None:
    features = rectified(400, 32, seed=0)
    to_itself = load_metric(name)(features, features)
    to_another = load_metric(name)(features, rectified(400, 32, seed=1, shift=1.0))
    assert -0.05 * to_another.value < to_itself.value < 1e-6  # unbiased KID: a little below 0, see kid()


def test_kid_of_two_draws_from_one_distribution_is_zero_within_its_standard_error() -> None:
    for seed in range(5):
        estimate = kid(rectified(400, 32, seed=2 * seed), rectified(300, 32, seed=2 * seed + 1))
        assert abs(estimate.value) < 3 * estimate.standard_error


@pytest.mark.parametrize("name", METRICS)
def test_a_metric_does_not_depend_on_the_order_of_images_or_sets(name: str) -> None:
    real, fake = rectified(90, 24, seed=0), rectified(70, 24, seed=1, shift=0.3)
    measure = load_metric(name)
    expected = measure(real, fake)
    shuffled = measure(real.flip(0), fake[torch.randperm(70, generator=torch.Generator().manual_seed(0))])
    assert shuffled.value == pytest.approx(expected.value, rel=1e-9)
    assert measure(fake, real).value == pytest.approx(expected.value, rel=1e-9)


@pytest.mark.parametrize("name", METRICS)
def test_a_metric_refuses_a_single_image(name: str) -> None:
    with pytest.raises(DataError, match="needs at least"):
        load_metric(name)(rectified(1, 8, seed=0), rectified(10, 8, seed=1))


def test_the_transfer_gain_is_a_ratio_and_none_where_a_ratio_means_nothing() -> None:
    assert transfer_gain(Estimate(0.06), Estimate(0.02)) == pytest.approx(3.0)
    assert transfer_gain(Estimate(0.06), Estimate(-0.001)) is None
    assert transfer_gain(Estimate(0.0), Estimate(0.02)) is None
