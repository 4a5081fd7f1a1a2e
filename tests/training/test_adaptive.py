"""Augmentation that follows overfitting: its heuristic by hand, and the same training however it is cut up."""

import csv
from collections.abc import Callable
from pathlib import Path
from types import ModuleType

import numpy as np
import pytest
import torch
from safetensors.numpy import load_file
from torch import Tensor

from genxfer.errors import ParameterError
from genxfer.models.config import FAMILIES
from genxfer.models.family import Step
from genxfer.noise import Noise
from genxfer.training.adaptive import LARGEST_P, TERM, AugmentChance
from genxfer.training.config import TrainConfig
from genxfer.training.distributed import World
from genxfer.training.interrupt import Interrupted
from genxfer.training.pace import TrainResult
from tests.training.ranks import start
from tests.training.stopping import StopAt
from tests.training.train_small import small_family

TrainSmall = Callable[..., TrainResult]
ADAPTIVE = {"augment_p": "adaptive", "ada_kimg": 0.08}
ADVERSARIAL = [name for name in FAMILIES if "discriminator" in small_family(name).nets]


def chance(**keys: object) -> AugmentChance:
    config = TrainConfig.model_validate(
        {"kimg": 1, "augment": ("color",), "augment_p": "adaptive", "ada_kimg": 1} | keys
    )
    return AugmentChance(config, World())


def after_steps(chance: AugmentChance, signs: list[float], n: int = 10) -> list[float]:
    """The probability after each step whose `n` reals have this mean sign."""
    seen = []
    for step, sign in enumerate(signs, start=1):
        chance.add({TERM: torch.tensor(sign)}, n)
        chance.adjust(step)
        seen.append(chance.p)
    return seen


def test_the_probability_rises_above_the_target_and_falls_below_it_every_fourth_step() -> None:
    # 4 steps of 10 images at 1 kimg from 0 to 1: 0.04 at a time.
    assert after_steps(chance(), [1.0] * 8) == pytest.approx([0, 0, 0, 0.04, 0.04, 0.04, 0.04, 0.08])
    up_and_down = after_steps(chance(), [1.0, 1.0, 0.4, 0.4, 0.6, 0.6, 0.4, 0.6])
    assert up_and_down[3::4] == pytest.approx([0.04, 0.0])  # 0.7, then 0.55
    assert after_steps(chance(), [0.6] * 4)[-1] == 0
    assert after_steps(chance(), [-1.0] * 8)[-1] == 0


def test_the_probability_stops_before_the_generator_could_learn_the_augmentation() -> None:
    assert after_steps(chance(ada_kimg=0.05), [1.0] * 8)[3::4] == pytest.approx([LARGEST_P, LARGEST_P])


def test_steps_without_a_discriminator_and_fixed_probabilities_change_nothing() -> None:
    idle, fixed = chance(), chance(augment_p=0.25)
    for step in range(1, 9):
        idle.add({"generator": torch.tensor(1.0)}, 10)
        idle.adjust(step)
    assert idle.p == 0
    assert after_steps(fixed, [1.0] * 8) == [0.25] * 8
    assert (fixed.facts(), fixed.curve()) == (None, {})


def test_it_goes_on_in_the_midst_of_four_steps() -> None:
    whole, first, second = chance(), chance(), chance()
    after_steps(whole, [1.0] * 6)
    after_steps(first, [1.0] * 6)
    second.restore(first.facts())
    assert second.facts() == whole.facts() == {"p": pytest.approx(0.04), "signs": 20, "images": 20}


@pytest.mark.parametrize("name", ADVERSARIAL)
def test_a_family_with_a_discriminator_reports_the_sign_it_gives_real_images(name: str) -> None:
    family = small_family(name)
    shape = family.shape
    real = torch.randn(6, shape.channels, shape.resolution_px, shape.resolution_px)
    step = Step(0, 0, Noise(torch.Generator()))
    expected = family.nets["discriminator"](real).sign().mean()
    terms = family.loss("discriminator", real, step)
    assert terms[TERM].item() == pytest.approx(expected.item())
    assert not terms[TERM].requires_grad


def test_other_families_refuse_to_adapt(small: ModuleType, train_small: TrainSmall) -> None:
    for name in set(FAMILIES) - set(ADVERSARIAL):
        with pytest.raises(ParameterError, match=r"augment_p is 'adaptive'.*has no discriminator.*dcgan or mlp_gan"):
            train_small(small.small_family(name), **ADAPTIVE)
    with pytest.raises(ParameterError, match="augment names no operation"):
        train_small(small.small_family("dcgan"), **ADAPTIVE, augment=())


def curve(folder: Path, column: str = "augment_p") -> list[float]:
    with (folder / "out/curves.csv").open(newline="") as file:
        return [float(row[column]) for row in csv.DictReader(file)]


def always_sure(family: object, sign: float = 1.0) -> object:
    """Let the discriminator of `family` be sure of every real image, so that the probability moves for certain."""
    whole = family.loss  # type: ignore[attr-defined]

    def loss(phase: str, real: Tensor, step: Step) -> dict[str, Tensor]:
        terms = whole(phase, real, step)
        return terms | {TERM: torch.full((), sign)} if TERM in terms else terms

    family.loss = loss  # type: ignore[attr-defined]
    return family


@pytest.mark.parametrize("name", ADVERSARIAL)
def test_a_cancelled_run_goes_on_with_the_same_probability_to_the_same_bits(
    name: str, small: ModuleType, train_small: TrainSmall, tmp_path: Path
) -> None:
    keys = ADAPTIVE | {"kimg": 0.064}
    train_small(always_sure(small.small_family(name)), tmp_path / "whole", **keys)
    with pytest.raises(Interrupted):
        train_small(always_sure(small.small_family(name)), tmp_path / "parts", tracker=StopAt(20), **keys)
    result = train_small(always_sure(small.small_family(name, seed=9)), tmp_path / "parts", **keys)
    assert result.resumed_from == 20  # a step after the probability changed
    for file in ("snapshot.safetensors", "curves.csv"):
        assert (tmp_path / "parts/out" / file).read_bytes() == (tmp_path / "whole/out" / file).read_bytes(), file
    # Reports at 12, 20, 32, ... images; 16 images of 80 at a time.
    assert curve(tmp_path / "whole") == pytest.approx([0, 0.2, 0.4, 0.4, 0.6, 0.6, 0.8])


def test_what_is_augmented_by_chance_trains_otherwise_than_always_or_never(
    small: ModuleType, train_small: TrainSmall, tmp_path: Path
) -> None:
    for p in (0.0, 0.5, 1.0):
        train_small(small.small_family("dcgan"), tmp_path / str(p), augment_p=p)
    train_small(small.small_family("dcgan"), tmp_path / "none", augment=())
    one, half, never, none = (
        (tmp_path / folder / "out/snapshot.safetensors").read_bytes() for folder in ("1.0", "0.5", "0.0", "none")
    )
    assert never == none
    assert len({one, half, none}) == 3


@pytest.mark.slow
@pytest.mark.parametrize(
    ("name", "size", "micro_batch"),
    # Micro-batches have BatchNorm statistics of their own, so they are compared where there is none.
    [(name, size, None) for name in ADVERSARIAL for size in (2, 4)] + [("mlp_gan", 2, 3)],
)
def test_several_processes_adapt_as_one_does(name: str, size: int, micro_batch: int | None, tmp_path: Path) -> None:
    # Nets whose discriminator is soon sure of noise, so that the probability rises.
    family_keys = {"discriminator_normalization": "none"} if name == "dcgan" else {}
    keys = {"kimg": 0.096, "batch": 8, "report_every_kimg": 0.008, **ADAPTIVE}
    assert start(name, 1, tmp_path / "1", family_keys, **keys).wait() == [0]
    more = {} if micro_batch is None else {"micro_batch": micro_batch}
    assert start(name, size, tmp_path / "n", family_keys, **keys, **more).wait() == [0] * size
    assert curve(tmp_path / "1")[-1] > 0
    assert curve(tmp_path / "n") == curve(tmp_path / "1")
    weights, others = (load_file(tmp_path / folder / "out/snapshot.safetensors") for folder in ("1", "n"))
    for key, tensor in weights.items():
        np.testing.assert_allclose(others[key], tensor, rtol=1e-4, atol=2e-5, err_msg=key)
