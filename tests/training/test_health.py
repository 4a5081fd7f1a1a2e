"""Training that comes to nothing is noticed, said, and left or rolled back."""

import csv
import math
from collections.abc import Callable
from pathlib import Path
from types import ModuleType

import pytest
import torch
from torch import Tensor

from genxfer.models.adversarial import COLLAPSED, SATURATED, spread
from genxfer.models.family import Family, Step
from genxfer.training.adam import Adam
from genxfer.training.checkpoint import Checkpoint, read_newest, write_checkpoint
from genxfer.training.distributed import World
from genxfer.training.engine import LAST_GOOD_FOLDER
from genxfer.training.health import DivergenceError, check_finite, check_watched, check_weights
from genxfer.training.interrupt import Interrupted
from genxfer.training.snapshot import load_snapshot
from genxfer.training.tracker import NullTracker
from tests.training.stopping import StopAt

TrainSmall = Callable[..., object]


def broken(family: Family, at_images: int, term: Callable[[dict[str, Tensor]], dict[str, Tensor]]) -> Family:
    """Let `term` change the terms of the family's last phase in the steps from `at_images` on."""
    whole = family.loss

    def loss(phase: str, real: Tensor, step: Step) -> dict[str, Tensor]:
        terms = whole(phase, real, step)
        return term(terms) if step.images_seen >= at_images and phase == family.phases[-1].name else terms

    family.loss = loss  # type: ignore[method-assign]
    return family


def test_a_mean_that_is_not_finite_is_named() -> None:
    check_finite({"a": 1.0}, 10)
    with pytest.raises(DivergenceError, match=r"'b' is nan at images_seen 10 \(0.01 kimg\)"):
        check_finite({"a": 1.0, "b": math.nan}, 10)


def test_a_weight_that_is_not_finite_is_named() -> None:
    weights = {"decoder.bias": torch.ones(2), "decoder.count": torch.tensor(3)}
    check_weights(weights, 10)
    check_weights({}, 10)
    with pytest.raises(DivergenceError, match=r"'encoder.bias' is not finite at images_seen 10 \(0.01 kimg\)"):
        check_weights(weights | {"encoder.bias": torch.tensor([1.0, math.inf])}, 10)


def test_a_collapsed_generator_and_a_saturated_discriminator_are_told_from_healthy_ones() -> None:
    healthy = {"fake_spread": 0.5, "discriminator_real": 0.4, "discriminator_fake": 0.4}
    check_watched(healthy, (COLLAPSED, SATURATED), 1000)
    check_watched({"generator": 0.1}, (COLLAPSED, SATURATED), 1000)  # a phase that is left out has no terms
    with pytest.raises(DivergenceError, match=r"fake_spread is 0.001 .* below 0.02: the generator has collapsed"):
        check_watched(healthy | {"fake_spread": 0.001}, (COLLAPSED, SATURATED), 1000)
    with pytest.raises(DivergenceError, match=r"discriminator_real \+ discriminator_fake is 2e-05"):
        check_watched(healthy | {"discriminator_real": 1e-5, "discriminator_fake": 1e-5}, (SATURATED,), 1000)


def test_the_spread_of_equal_images_is_zero_and_of_the_reals_one() -> None:
    real = torch.randn(8, 3, 4, 4, generator=torch.Generator().manual_seed(0))
    assert spread(real, real)["~fake_spread"].item() == pytest.approx(1)
    assert spread(real[:1].expand(8, -1, -1, -1), real)["~fake_spread"].item() == 0
    assert spread(real[:1], real[:1]) == {}


@pytest.mark.parametrize(("name", "micro_batch", "unwatched"), [("dcgan", 1, 1), ("dcgan", 2, 0), ("vae", 1, 0)])
def test_what_cannot_be_watched_is_said_once(
    name: str,
    micro_batch: int,
    unwatched: int,
    small: ModuleType,
    train_small: TrainSmall,
    caplog: pytest.LogCaptureFixture,
) -> None:
    train_small(small.small_family(name), micro_batch=micro_batch)
    said = [record.message for record in caplog.records if "too few to see whether" in record.message]
    assert len(said) == unwatched
    assert all("has 1 image" in message and "the generator has collapsed" in message for message in said)


def test_where_all_reals_are_equal_the_spread_says_nothing() -> None:
    fake = torch.randn(8, 3, 4, 4, generator=torch.Generator().manual_seed(0))
    assert spread(fake, fake[:1].expand(8, -1, -1, -1))["~fake_spread"].item() == 1
    same = fake[:1].expand(8, -1, -1, -1)
    assert spread(same, same)["~fake_spread"].item() == 1


@pytest.mark.parametrize("name", ["dcgan", "mlp_gan"])
def test_a_generator_that_makes_one_image_is_found_out_at_the_next_report(
    name: str, small: ModuleType, train_small: TrainSmall, tmp_path: Path
) -> None:
    family = small.small_family(name)
    noise = family.config.latent_dim

    def one_image(module: torch.nn.Module, inputs: tuple[Tensor]) -> tuple[Tensor]:
        return (inputs[0][:1].expand(len(inputs[0]), noise) if steps["seen"] >= 20 else inputs[0],)

    steps = {"seen": 0}
    broken(family, 0, lambda terms: steps.update(seen=steps["seen"] + 4) or terms)
    family.nets["generator"].register_forward_pre_hook(one_image)
    with pytest.raises(DivergenceError, match="the generator has collapsed") as caught:
        train_small(family, report_every_kimg=0.008)
    assert "images_seen 32" in str(caught.value)
    folder = tmp_path / "work" / LAST_GOOD_FOLDER
    assert str(folder) in str(caught.value)
    kept = load_snapshot(folder / "snapshot.safetensors", folder / "snapshot.json")
    assert kept.images_seen == 24


def test_a_rollback_goes_on_from_the_last_good_report_with_other_noise_at_half_the_rate(
    small: ModuleType, train_small: TrainSmall, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    rates: list[float] = []
    noises: list[tuple[int, str, int]] = []
    failures = []
    step_of_adam = Adam.step

    def observed_step(adam: Adam, lr: float) -> None:
        rates.append(lr)
        step_of_adam(adam, lr)

    def observed(family: Family) -> Family:
        whole = family.loss

        def loss(phase: str, real: Tensor, step: Step) -> dict[str, Tensor]:
            noises.append((step.images_seen, phase, step.noise.generator.initial_seed()))
            return whole(phase, real, step)

        family.loss = loss  # type: ignore[method-assign]
        return family

    def fails_once(terms: dict[str, Tensor]) -> dict[str, Tensor]:
        if not failures:
            failures.append(1)
            return terms | {"generator": terms["generator"] * math.nan}
        return terms

    monkeypatch.setattr(Adam, "step", observed_step)
    family = observed(broken(small.small_family("dcgan"), 24, fails_once))
    result = train_small(family, report_every_kimg=0.008, on_divergence="rollback")
    assert result.rollbacks == 1
    weights = load_snapshot(tmp_path / "out/snapshot.safetensors", tmp_path / "out/snapshot.json").weights
    assert all(tensor.isfinite().all() for tensor in weights.values())
    with (tmp_path / "out/curves.csv").open(newline="") as file:
        assert [row["images_seen"] for row in csv.DictReader(file)] == ["8", "16", "24", "32", "40"]
    with_rates, with_noises = rates.copy(), noises.copy()
    rates.clear()
    noises.clear()
    train_small(observed(small.small_family("dcgan")), tmp_path / "without", report_every_kimg=0.008)
    assert curve(tmp_path)[:3] == curve(tmp_path / "without")[:3]
    # Two phases in each of ten steps, of which the last four come after the report at 24 images.
    before, after = slice(0, 12), slice(-8, None)
    assert with_rates[before] == rates[before]
    assert with_rates[after] == [rate / 2 for rate in rates[after]]
    assert with_noises[before] == noises[before]
    assert [place[:2] for place in with_noises[after]] == [place[:2] for place in noises[after]]
    assert {place[2] for place in with_noises[after]}.isdisjoint(place[2] for place in noises)


def test_a_run_that_is_ended_after_a_rollback_goes_on_from_there(
    small: ModuleType, train_small: TrainSmall, tmp_path: Path
) -> None:
    class Cancelled(BaseException):
        pass

    class EachStep(World):
        """Wants a checkpoint after each step; ends the run in its first step after the rollback."""

        def agree(self, *wishes: bool) -> tuple[bool, ...]:
            if len(newest_at_start) == 2:
                raise Cancelled
            return False, True

    class Watcher(NullTracker):
        def start(self, total_images: int, images_seen: int) -> None:
            newest_at_start.append(newest(tmp_path / "work"))

    newest_at_start: list[tuple[int, int] | None] = []
    family = broken(small.small_family("dcgan"), 28, not_a_number)
    keys = {"report_every_kimg": 0.016, "on_divergence": "rollback"}
    with pytest.raises(Cancelled):
        train_small(family, world=EachStep(), tracker=Watcher(), **keys)
    # Checkpoints of 24 and 28 images were there; the state of 16 has taken their place before another step is tried.
    assert newest_at_start == [None, (16, 1)]
    assert newest(tmp_path / "work") == (20, 1)
    result = train_small(small.small_family("dcgan"), **keys)
    assert (result.resumed_from, result.rollbacks) == (20, 1)


def newest(folder: Path) -> tuple[int, int] | None:
    """How far the newest checkpoint stands, and after how many rollbacks."""
    found = read_newest(folder)
    return None if found is None else (found.images_seen, found.facts["rollbacks"])


def not_a_number(terms: dict[str, Tensor]) -> dict[str, Tensor]:
    return terms | {"generator": terms["generator"] * math.nan}


# Of the autoencoder's nets only the encoder is reached by it, and no average is taken of that one.
overflows = pytest.mark.parametrize(("name", "term"), [("dcgan", "generator"), ("vae", "kl")])


def overflowing_once(family: Family, term: str) -> Family:
    """Let the gradient of `term`, not its value, be no number in the step of the third report."""
    steps = []

    def overflow(terms: dict[str, Tensor]) -> dict[str, Tensor]:
        steps.append(1)
        return terms | {term: terms[term] + (terms[term] * 0).sqrt()} if len(steps) == 1 else terms

    return broken(family, 20, overflow)


@overflows
def test_weights_that_overflow_in_the_very_step_of_a_report_are_not_gone_back_to(
    name: str, term: str, small: ModuleType, train_small: TrainSmall, tmp_path: Path
) -> None:
    class Watcher(NullTracker):
        def start(self, total_images: int, images_seen: int) -> None:
            starts.append(images_seen)

    starts: list[int] = []
    family = overflowing_once(small.small_family(name), term)
    result = train_small(family, tracker=Watcher(), report_every_kimg=0.008, on_divergence="rollback")
    assert starts == [0, 16]
    assert result.rollbacks == 1
    assert all(tensor.isfinite().all() for tensor in family.nets.state_dict().values())


@overflows
def test_weights_that_overflow_in_the_very_step_of_a_report_are_not_kept_as_the_last_good_ones(
    name: str, term: str, small: ModuleType, train_small: TrainSmall, tmp_path: Path
) -> None:
    family = overflowing_once(small.small_family(name), term)
    with pytest.raises(
        DivergenceError, match=r"not finite at images_seen 24 \(0.024 kimg\).*last good ones, are kept in"
    ):
        train_small(family, report_every_kimg=0.008)
    folder = tmp_path / "work" / LAST_GOOD_FOLDER
    kept = load_snapshot(folder / "snapshot.safetensors", folder / "snapshot.json")
    assert kept.images_seen == 16
    for key, tensor in kept.weights.items():
        assert tensor.isfinite().all() or key.split(".")[0] not in family.sampling_nets, key


def stopped_at_20(small: ModuleType, train_small: TrainSmall, folder: Path) -> Checkpoint:
    """Train until 20 images were seen and somebody stops it; return the checkpoint that a next call goes on from."""
    with pytest.raises(Interrupted):
        train_small(small.small_family("dcgan"), tracker=StopAt(20), report_every_kimg=0.01)
    stopped = read_newest(folder / "work")
    assert stopped is not None
    return stopped


def test_a_run_that_diverges_before_its_first_report_after_a_stop_keeps_what_it_went_on_from(
    small: ModuleType, train_small: TrainSmall, tmp_path: Path
) -> None:
    stopped = stopped_at_20(small, train_small, tmp_path)
    with pytest.raises(DivergenceError, match="last good ones, are kept in"):
        train_small(broken(small.small_family("dcgan", seed=1), 24, not_a_number), report_every_kimg=0.04)
    folder = tmp_path / "work" / LAST_GOOD_FOLDER
    kept = load_snapshot(folder / "snapshot.safetensors", folder / "snapshot.json")
    assert kept.images_seen == stopped.images_seen == 20
    averaged = {name: tensor for name, tensor in kept.weights.items() if name.startswith("generator.")}
    assert averaged
    for name, tensor in averaged.items():
        assert torch.equal(tensor, stopped.tensors[f"ema.{name}"]), name


def test_what_a_run_goes_on_from_is_not_kept_as_good_when_it_is_lost(
    small: ModuleType, train_small: TrainSmall, tmp_path: Path
) -> None:
    stopped = stopped_at_20(small, train_small, tmp_path)
    for name, tensor in stopped.tensors.items():
        if name.startswith("nets.generator.") and tensor.is_floating_point():
            tensor.fill_(math.nan)
    write_checkpoint(tmp_path / "work", stopped)
    with pytest.raises(DivergenceError) as caught:
        train_small(small.small_family("dcgan"), report_every_kimg=0.01)
    assert "are kept in" not in str(caught.value)


def curve(folder: Path) -> list[str]:
    return (folder / "out/curves.csv").read_text().splitlines()[1:]


def test_a_run_that_diverges_again_and_again_is_given_up(small: ModuleType, train_small: TrainSmall) -> None:
    tries = []

    def fails(terms: dict[str, Tensor]) -> dict[str, Tensor]:
        tries.append(1)
        return terms | {"generator": terms["generator"] * math.nan}

    with pytest.raises(DivergenceError, match="last good ones, are kept in"):
        train_small(broken(small.small_family("dcgan"), 24, fails), report_every_kimg=0.008, on_divergence="rollback")
    assert len(tries) == 4
