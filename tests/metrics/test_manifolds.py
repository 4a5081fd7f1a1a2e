"""Precision, recall, density and coverage: against torch-fidelity, the definitions, and what theory expects."""

import pytest
import torch
from torch import Tensor
from torch_fidelity.metric_prc import KEY_METRIC_PRECISION, KEY_METRIC_RECALL, prc_features_to_metric

from genxfer.metrics.density_coverage import density_coverage
from genxfer.metrics.precision_recall import precision_recall
from genxfer.metrics.sets import FeatureSets
from tests.metrics.feature_samples import gaussian, rectified


def numbers(real: Tensor, fake: Tensor) -> dict[str, float]:
    of = FeatureSets(real, fake)
    return precision_recall(of).flat() | density_coverage(of).flat()


@pytest.mark.parametrize(("n", "m"), [(300, 200), (150, 260)])
def test_precision_and_recall_equal_torch_fidelity(n: int, m: int) -> None:
    real, fake = rectified(n, 48, seed=0), rectified(m, 48, seed=1, shift=0.15)
    reference = prc_features_to_metric(fake.double(), real.double(), prc_neighborhood=3, verbose=False)
    found = numbers(real, fake)
    assert found["precision"] == pytest.approx(reference[KEY_METRIC_PRECISION], rel=1e-6)
    assert found["recall"] == pytest.approx(reference[KEY_METRIC_RECALL], rel=1e-6)
    assert 0.05 < found["precision"] < 0.95  # a comparison of ones would say little


def test_density_and_coverage_equal_their_definition() -> None:
    real, fake = gaussian(40, 5, seed=0), gaussian(30, 5, seed=1, shift=0.4)
    among_real, across = torch.cdist(real, real), torch.cdist(real, fake)
    radii = among_real.sort(dim=1).values[:, 5]
    within = across <= radii[:, None]
    found = numbers(real, fake)
    assert found["density"] == pytest.approx(float(within.sum()) / (5 * 30))
    assert found["coverage"] == pytest.approx(float(within.any(dim=1).double().mean()))


def test_equal_sets_are_wholly_precise_recalled_and_covered() -> None:
    features = rectified(120, 16, seed=0)
    found = numbers(features, features)
    assert (found["precision"], found["recall"], found["coverage"]) == (1, 1, 1)
    assert found["density"] == pytest.approx(6 / 5)  # each image lies in its own ball too


def test_two_draws_of_one_distribution_have_the_expected_density_and_coverage() -> None:
    found = [numbers(gaussian(300, 8, seed=2 * i), gaussian(300, 8, seed=2 * i + 1)) for i in range(10)]
    density, coverage = (sum(each[name] for each in found) / 10 for name in ("density", "coverage"))
    assert density == pytest.approx(1, abs=0.05)
    assert coverage == pytest.approx(1 - 0.5**5, abs=0.02)


@pytest.mark.parametrize(("n", "m"), [(200, 100), (60, 300), (12, 6)])
def test_the_coverage_of_equals_is_that_of_two_draws_of_any_sizes(n: int, m: int) -> None:
    drawn = [
        density_coverage(FeatureSets(gaussian(n, 8, seed=2 * i), gaussian(m, 8, seed=2 * i + 1))) for i in range(60)
    ]
    mean = sum(found.numbers["coverage"].value for found in drawn) / len(drawn)
    assert mean == pytest.approx(drawn[0].yardsticks["coverage_equal"], abs=0.03)


def test_a_generator_of_one_good_image_is_precise_and_covers_nothing() -> None:
    real = gaussian(200, 8, seed=0)
    found = numbers(real, real[:1].repeat(100, 1))
    assert found["precision"] == 1
    assert found["recall"] < 0.02
    assert found["coverage"] < 0.2


def test_noise_far_from_every_image_is_neither_precise_nor_dense() -> None:
    found = numbers(gaussian(100, 8, seed=0), gaussian(100, 8, seed=1, shift=50))
    assert found == dict.fromkeys(("precision", "recall", "density", "coverage"), 0)


def test_one_outlier_moves_precision_much_density_little_and_coverage_not() -> None:
    real, fake = gaussian(200, 8, seed=0), gaussian(200, 8, seed=1, shift=3.0)
    outlier = torch.cat([real, torch.full((1, 8), 6.0, dtype=torch.float64)])
    before, after = numbers(real, fake), numbers(outlier, fake)
    assert after["precision"] - before["precision"] > 0.5
    assert 0 < after["density"] - before["density"] <= 1 / 5
    assert abs(after["coverage"] - before["coverage"]) < 0.05
