"""Planted failures: a generator that replays its training images, and one that has collapsed."""

import pytest
import torch
from torch import Tensor

from genxfer.metrics.diversity import diversity
from genxfer.metrics.estimate import Measurement
from genxfer.metrics.memorization import memorization
from genxfer.metrics.sets import FeatureSets
from tests.metrics.feature_samples import gaussian, rectified

TRAIN = rectified(60, 24, seed=0)


def against(fake: Tensor, n_real: int = 400) -> tuple[Measurement, Measurement]:
    of = FeatureSets(rectified(n_real, 24, seed=1), fake, TRAIN)
    return memorization(of), diversity(of)


def replayed(n: int, jitter: float) -> Tensor:
    places = torch.randint(len(TRAIN), (n,), generator=torch.Generator().manual_seed(5))
    return TRAIN[places] + jitter * gaussian(n, 24, seed=6).float()


def passed(measured: Measurement) -> bool:
    return measured.flat()["memorization_passed"]


@pytest.mark.parametrize("jitter", [0.0, 1e-6, 0.02])
@pytest.mark.parametrize("n_real", [400, 20])
def test_a_generator_that_replays_its_training_images_fails(jitter: float, n_real: int) -> None:
    copies, spread = against(replayed(300, jitter), n_real)
    assert not passed(copies)
    assert copies.numbers["memorization"].value == 1
    assert spread.numbers["diversity"].value < 0.05 * spread.yardsticks["diversity_real"]


def test_a_generator_that_replays_one_image_in_four_fails() -> None:
    mixed = torch.cat([rectified(300, 24, seed=7), replayed(100, 0.01)])
    assert not passed(against(mixed)[0])


@pytest.mark.parametrize("seed", range(20, 30))
@pytest.mark.parametrize("n", [30, 400])
def test_a_generator_as_good_as_new_real_images_passes(seed: int, n: int) -> None:
    copies, spread = against(rectified(n, 24, seed=seed))
    assert passed(copies)
    if n == 400:
        assert spread.numbers["diversity"].value == pytest.approx(spread.yardsticks["diversity_real"], rel=0.1)


def test_a_collapsed_generator_has_a_diversity_near_0() -> None:
    fixed = rectified(1, 24, seed=8).repeat(300, 1)
    assert against(fixed)[1].numbers["diversity"].value == 0
    _, nearly = against(fixed + 0.01 * gaussian(300, 24, seed=9).float())
    assert nearly.numbers["diversity"].value < 0.05 * nearly.yardsticks["diversity_real"]


def test_the_worst_pairs_name_the_copies_and_what_they_copy() -> None:
    fake = rectified(50, 24, seed=11)
    fake[[7, 31]] = TRAIN[[40, 3]] + 1e-4
    pairs = against(fake)[0].pairs
    assert {(pair.sample, pair.train) for pair in pairs[:2]} == {(7, 40), (31, 3)}
    for pair in pairs:
        assert pair.distance == pytest.approx(float((fake[pair.sample] - TRAIN[pair.train]).norm()), rel=1e-3)
        others = (TRAIN - TRAIN[pair.train]).norm(dim=1)
        assert pair.spacing == pytest.approx(float(others.sort().values[1]), rel=1e-4)
    ratios = [pair.distance / pair.spacing for pair in pairs]
    assert ratios == sorted(ratios)
    assert len(pairs) == 8


def test_memorization_is_the_share_nearer_than_training_images_are_to_each_other() -> None:
    train = torch.tensor([[0.0, 0.0], [1.0, 0.0], [10.0, 0.0]])
    fake = torch.tensor([[0.0, 0.5], [0.0, 1.5], [10.0, 8.0], [10.0, 10.0], [1.0, 0.9]])
    real = torch.tensor([[0.0, 3.0], [1.0, 0.1]])
    found = memorization(FeatureSets(real, fake, train))
    assert found.numbers["memorization"].value == pytest.approx(3 / 5)
    assert found.yardsticks["memorization_heldout"] == pytest.approx(1 / 2)


def test_diversity_is_the_mean_over_training_images_of_mean_distances() -> None:
    train = torch.tensor([[0.0, 0.0], [100.0, 0.0], [0.0, 100.0]])
    fake = torch.tensor([[0.0, 0.0], [0.0, 3.0], [4.0, 0.0], [100.0, 0.0], [100.0, 6.0], [0.0, 99.0]])
    found = diversity(FeatureSets(fake, fake, train)).numbers["diversity"].value
    assert found == pytest.approx(((3 + 4 + 5) / 3 + 6) / 2)  # the third image has one sample, and so no pair


def test_equal_training_images_do_not_hide_copies() -> None:
    twice = torch.cat([TRAIN, TRAIN])
    found = memorization(FeatureSets(rectified(400, 24, seed=1), replayed(300, 0.0), twice))
    assert not passed(found)
