"""Planted failures: a generator that replays its training images, and one that has collapsed."""

import pytest
import torch
from torch import Tensor

from genxfer.metrics.caution import is_weak_check, warnings
from genxfer.metrics.diversity import diversity
from genxfer.metrics.estimate import Measurement
from genxfer.metrics.memorization import memorization
from genxfer.metrics.sets import FeatureSets, TooFewImagesError
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


@pytest.mark.parametrize("shift", [0.0, 0.6])
def test_a_generator_that_replays_one_image_in_twenty_fails_whatever_its_other_images(shift: float) -> None:
    others = rectified(380, 24, seed=7) + shift  # poorer ones lie farther from training images than real ones do
    assert passed(against(others)[0])
    assert not passed(against(torch.cat([others, replayed(20, 0.01)]))[0])


def test_many_samples_that_keep_close_to_training_images_without_being_copies_fail() -> None:
    blended = torch.cat([(TRAIN + TRAIN.roll(i, dims=0)) / 2 for i in (1, 2, 3, 4)])
    found, _ = against(blended)
    assert found.numbers["copies"].value < found.facts["copies"]["threshold"]
    assert found.numbers["memorization"].value > found.facts["memorization"]["threshold"]
    assert not passed(found)


@pytest.mark.parametrize("seed", range(20, 30))
@pytest.mark.parametrize("n", [30, 400])
def test_a_generator_as_good_as_new_real_images_passes(seed: int, n: int) -> None:
    copies, spread = against(rectified(n, 24, seed=seed))
    assert passed(copies)
    if n == 400:
        assert spread.numbers["diversity"].value == pytest.approx(spread.yardsticks["diversity_real"], rel=0.1)
    assert warnings(spread.flat() | spread.yardsticks) == ()


def test_a_collapsed_generator_has_a_diversity_near_0() -> None:
    fixed = rectified(1, 24, seed=8).repeat(300, 1)
    assert against(fixed)[1].numbers["diversity"].value == 0
    copies, nearly = against(fixed + 0.01 * gaussian(300, 24, seed=9).float())
    assert nearly.numbers["diversity"].value < 0.05 * nearly.yardsticks["diversity_real"]
    assert passed(copies)  # it copies nothing, so that this check alone would let it through without a word
    assert "samples are far more alike than real images" in " ".join(warnings(nearly.flat() | nearly.yardsticks))


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


@pytest.mark.parametrize("jitter", [0.0, 1e-6, 0.02])
@pytest.mark.parametrize("doubled", [5, 60])
def test_training_images_that_are_there_twice_do_not_hide_copies(jitter: float, doubled: int) -> None:
    twice = torch.cat([TRAIN, TRAIN[:doubled] + 0.01 * gaussian(doubled, 24, seed=12).float()])
    places = torch.arange(300) % doubled
    fake = TRAIN[places] + jitter * gaussian(300, 24, seed=6).float()
    found = memorization(FeatureSets(rectified(400, 24, seed=1), fake, twice))
    assert found.numbers["copies"].value == 1
    assert not passed(found)
    assert all((pair.train if pair.train < 60 else pair.train - 60) == pair.sample % doubled for pair in found.pairs)


def test_frames_of_a_film_do_not_hide_copies_of_any_of_them() -> None:
    """Each frame is nearly the same as the next, the first and the last are as far apart as two images."""
    scenes = gaussian(6, 24, seed=1).float()
    way = torch.linspace(0, 1, 40)[:, None]
    frames = torch.cat([(1 - way) * a + way * b for a, b in zip(scenes[0::2], scenes[1::2], strict=True)])
    held_out = gaussian(300, 24, seed=3).float()
    found = memorization(FeatureSets(held_out, frames.repeat(3, 1), frames))
    assert found.numbers["copies"].value == 1
    assert not passed(found)
    assert all(pair.train == pair.sample % len(frames) for pair in found.pairs)
    assert passed(memorization(FeatureSets(held_out, gaussian(300, 24, seed=4).float(), frames)))
    one_film = memorization(FeatureSets(held_out, frames[:40], frames[:40]))
    assert one_film.numbers["copies"].value == 1


def test_training_images_that_are_all_one_are_too_few() -> None:
    with pytest.raises(TooFewImagesError, match="the 9 are one image many times"):
        memorization(FeatureSets(TRAIN, TRAIN, TRAIN[:1].repeat(9, 1)))


def test_the_share_of_copies_among_real_images_counts_each_training_image_against_all_others() -> None:
    # The first two are nearer to each other than half of what lies between either and its next nearest.
    train = torch.tensor([[0.0, 0.0], [4.0, 0.0], [20.0, 0.0], [40.0, 0.0], [61.0, 0.0]])
    real = torch.tensor([[20.0, 1.0], [0.0, 40.0], [50.2, 0.0]])
    found = memorization(FeatureSets(real, real, train))
    assert found.yardsticks["copies_heldout"] == pytest.approx((1 + 2) / (3 + 5))
    assert found.numbers["copies"].value == pytest.approx(1 / 3)


@pytest.mark.parametrize("n_real", [3, 5, 8])
def test_a_limit_is_a_share_and_one_that_nothing_exceeds_is_a_weak_check(n_real: int) -> None:
    train = gaussian(20, 16, seed=1).float()
    fake, real = gaussian(300, 16, seed=2).float(), gaussian(n_real, 16, seed=3).float()
    found = memorization(FeatureSets(real, fake, train)).flat()
    found |= memorization(FeatureSets(real, fake, train)).yardsticks
    assert found["memorization_threshold"] == 1
    assert is_weak_check(found)
    assert is_weak_check(found | {"copies_threshold": found["copies_heldout"]})
    assert not is_weak_check(found | {"copies_threshold": found["copies_heldout"], "memorization_threshold": 0.9})
