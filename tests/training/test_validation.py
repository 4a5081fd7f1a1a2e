"""The best moment of a run by its validation images: found, kept through kills, and published."""

import csv
import json
import logging
import math
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor

from genxfer.data.dataset import PackedImages
from genxfer.metrics.features import Pixels
from genxfer.models.config import FAMILIES
from genxfer.models.family import Family, Step, sample
from genxfer.training.checkpoint import checkpoint_files
from genxfer.training.distributed import World
from genxfer.training.filmstrip import load_filmstrip
from genxfer.training.interrupt import Interrupted
from genxfer.training.job import run_job
from genxfer.training.pace import TrainResult
from genxfer.training.score import score
from genxfer.training.selection import Scored, Selection
from genxfer.training.tracker import NullTracker
from genxfer.training.validation import Validation
from tests.launch.launch_small import small_job
from tests.training.ranks import start
from tests.training.stopping import StopAt
from tests.training.train_small import small_config, small_family, validation_images

TrainSmall = Callable[..., TrainResult]
SPOILT_FROM = 40  # images
EVERY = {"kimg": 0.12, "validate_every_kimg": 0.008, "lr": 0.01}


def learner(seed: int = 0) -> Family:
    """Return a net whose samples are as good as its decoder: a mixture would be fitted to what unlearns."""
    return small_family("mlp_vae", seed, latent_components=0)


def spoilt(family: Family) -> Family:
    """Let the family learn until SPOILT_FROM, and unlearn from then on."""
    whole = family.loss

    def loss(phase: str, real: Tensor, step: Step) -> dict[str, Tensor]:
        terms = whole(phase, real, step)
        return terms if step.images_seen < SPOILT_FROM else {name: -value for name, value in terms.items()}

    family.loss = loss  # type: ignore[method-assign]
    return family


@pytest.fixture
def learnable(tmp_path: Path) -> Path:
    """A folder whose training and validation images are of one bright gray, give or take."""
    draw = np.random.default_rng(0)
    for part, n in (("train", 50), ("validation", 20)):
        np.save(tmp_path / f"{part}.npy", draw.integers(190, 210, (n, 1, 28, 28), dtype=np.uint8))
    return tmp_path


def files(folder: Path, *names: str) -> list[bytes]:
    return [(folder / "out" / name).read_bytes() for name in names]


def curve(folder: Path, column: str = "validation_kid") -> dict[int, float]:
    with (folder / "out/curves.csv").open(newline="") as file:
        return {int(row["images_seen"]): float(row[column]) for row in csv.DictReader(file) if row[column]}


def test_a_run_that_gets_worse_publishes_the_moment_before(
    learnable: Path, train_small: TrainSmall, tmp_path: Path
) -> None:
    result = train_small(spoilt(learner()), learnable, **EVERY)
    scores = curve(learnable)
    best = min(scores, key=lambda images_seen: scores[images_seen])
    assert list(scores) == list(range(8, 121, 8))
    assert SPOILT_FROM <= best <= SPOILT_FROM + 16  # what has momentum turns slowly
    assert scores[120] > 1.2 * scores[best]
    assert (result.best_kimg, result.images_seen) == (best / 1000, 120)
    assert (result.best_validation_kid, result.final_validation_kid) == (scores[best], scores[120])
    assert f"at {best / 1000:g} kimg, which is published" in str(result)
    # All nets are those of that moment, the encoder among them: as if the run had ended there.
    (tmp_path / "short").mkdir()
    (learnable / "train.npy").rename(tmp_path / "short/train.npy")
    train_small(spoilt(learner()), tmp_path / "short", kimg=best / 1000, lr=0.01)
    published = ("snapshot.safetensors", "snapshot.json")
    assert files(learnable, *published) == files(tmp_path / "short", *published)


def test_patience_ends_a_run_that_does_not_get_better(learnable: Path, train_small: TrainSmall) -> None:
    result = train_small(spoilt(learner()), learnable, **EVERY, patience=2)
    assert result.best_kimg is not None
    assert result.images_seen == result.best_kimg * 1000 + 2 * 8 < 120
    assert list(curve(learnable, "reconstruction"))[-1] == result.images_seen
    assert train_small(spoilt(learner()), learnable, **EVERY, patience=2).best_kimg == result.best_kimg


@pytest.mark.parametrize("name", FAMILIES)
def test_a_stopped_run_goes_on_to_choose_the_same_moment(name: str, train_small: TrainSmall, tmp_path: Path) -> None:
    keys = {"kimg": 0.048, "validate_every_kimg": 0.012, "lr": 0.01}
    train_small(small_family(name), tmp_path / "whole", **keys)
    with pytest.raises(Interrupted):
        train_small(small_family(name), tmp_path / "parts", tracker=StopAt(30), **keys)
    result = train_small(small_family(name, seed=9), tmp_path / "parts", **keys)
    assert result.resumed_from == 32
    written = ("snapshot.safetensors", "snapshot.json", "curves.csv")
    assert files(tmp_path / "parts", *written) == files(tmp_path / "whole", *written)


def test_a_stopped_run_keeps_a_best_moment_that_lies_behind_it(learnable: Path, train_small: TrainSmall) -> None:
    with pytest.raises(Interrupted):
        train_small(spoilt(learner()), learnable, tracker=StopAt(64), **EVERY, patience=3)
    result = train_small(spoilt(learner(seed=9)), learnable, **EVERY, patience=3)
    assert result.resumed_from == 64
    assert result.best_kimg is not None
    assert result.best_kimg * 1000 <= SPOILT_FROM + 16 < 64
    assert json.loads((learnable / "out/snapshot.json").read_text())["kimg"] == result.best_kimg


def test_an_interruption_within_a_validation_leaves_no_checkpoint(train_small: TrainSmall, tmp_path: Path) -> None:
    class Cancelled(BaseException):
        pass

    class Stops(Validation):
        def score(self, family: Family, nets: torch.nn.ModuleDict) -> float:
            raise Cancelled

    family = small_family("mlp_vae")
    validation = Stops(validation_images(tmp_path, family), small_config(), "fp32", World())
    with pytest.raises(Cancelled):
        train_small(family, validation=validation, validate_every_kimg=0.008)
    assert checkpoint_files(tmp_path / "work") == []


def test_nets_that_draw_no_numbers_are_never_the_best(train_small: TrainSmall, tmp_path: Path) -> None:
    family = small_family("mlp_vae")
    healthy, calls = family.decode, []

    def decode(nets: torch.nn.ModuleDict, noise: Tensor) -> Tensor:
        calls.append(1)
        drawn = healthy(nets, noise)
        return drawn if len(calls) == 3 else drawn * math.nan  # the start, then the first validation

    family.decode = decode  # type: ignore[method-assign]
    result = train_small(family, kimg=0.032, validate_every_kimg=0.008, samples_every_kimg=100)
    assert result.best_kimg == 0.016
    assert result.final_validation_kid is None
    assert "no number at the end" in str(result)
    assert [math.isnan(value) for value in curve(tmp_path).values()] == [True, False, True, True]


def test_without_any_number_the_last_moment_is_published(train_small: TrainSmall, tmp_path: Path) -> None:
    family = small_family("mlp_vae")
    family.decode = lambda nets, noise: torch.full((len(noise), 1, 28, 28), math.nan)  # type: ignore[method-assign]
    result = train_small(family, validate_every_kimg=0.008)
    assert result.best_kimg is None
    assert json.loads((tmp_path / "out/snapshot.json").read_text())["images_seen"] == 40
    assert json.loads(json.dumps(result.facts(), allow_nan=False))["final_validation_kid"] is None


def test_only_a_better_score_is_better() -> None:
    selection = Selection()
    scores = [math.nan, 2.0, math.nan, 1.0, 1.0, math.inf]
    for images_seen, kid in enumerate(scores):
        selection.add(Scored(images_seen, kid), {"w": torch.tensor(float(images_seen))})
    assert selection.best == Scored(3, 1.0)
    assert selection.weights == {"w": torch.tensor(3.0)}
    assert selection.without_improvement == 2
    assert [selection.exhausted(patience) for patience in (None, 1, 2, 3)] == [False, True, True, False]
    other = Selection()
    other.restore(selection.weights, json.loads(json.dumps(selection.facts(), allow_nan=False)))
    assert other.facts() == selection.facts()


def test_the_score_is_the_kid_of_samples_from_always_the_same_noise(tmp_path: Path) -> None:
    class Counting(Pixels):
        taken: list[int] = []  # noqa: RUF012

        def features(self, images: Tensor, batch: int | None = None) -> Tensor:
            self.taken.append(len(images))
            return super().features(images, batch)

    family, config = small_family("mlp_vae"), small_config(validation_samples=8)
    images = validation_images(tmp_path, family)
    validation = Validation(images, config, "fp32", World(), Counting())
    family.nets.eval()
    first = validation.score(family, family.nets)
    assert validation.score(family, family.nets) == first
    assert sorted(Counting.taken) == [6, 8, 8]  # the validation images once
    drawn = ((sample(family, family.nets, 8, validation.seed) + 1) * 127.5).round() / 255
    assert first == pytest.approx(score(torch.full((6, 784), 128 / 255), drawn.flatten(1)).value)


@pytest.mark.parametrize("n", [0, 2])
def test_too_few_validation_images_leave_the_last_snapshot_and_say_so(
    n: int, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    job = small_job("mlp_vae", tmp_path, validate_every_kimg=0.008)
    validation_images(tmp_path, small_family("mlp_vae"), n)
    job = job.model_copy(update={"validation": tmp_path / "validation.npy"})
    with caplog.at_level(logging.INFO, "genxfer.training"):
        result = run_job(job, NullTracker(), World())
    assert result.best_kimg is None
    assert f"the last snapshot will be published: of {n} validation images, at least 3 are needed" in caplog.text
    assert json.loads((tmp_path / "out/snapshot.json").read_text())["images_seen"] == 40


@pytest.mark.slow
def test_a_job_is_scored_by_lite0_in_its_own_precision(tmp_path: Path) -> None:
    family = small_family("vae")
    images = np.random.default_rng(1).integers(0, 256, (40, 3, 16, 16), dtype=np.uint8)
    np.save(tmp_path / "validation.npy", images)
    config = small_config(validation_samples=32)
    scores = [
        Validation(PackedImages(tmp_path / "validation.npy"), config, precision, World()).score(
            family, family.nets.eval()
        )
        for precision in ("fp32", "bf16")
    ]
    assert scores[1] != scores[0]
    assert scores[1] == pytest.approx(scores[0], rel=0.1)
    job = small_job("mlp_vae", tmp_path / "job", validate_every_kimg=0.02)
    validation_images(tmp_path / "job", small_family("mlp_vae"))
    result = run_job(job.model_copy(update={"validation": tmp_path / "job/validation.npy"}), NullTracker(), World())
    assert result.best_kimg in (0.02, 0.04)
    assert 0 < result.validation_share < 1


def test_two_processes_choose_the_moment_that_one_does(tmp_path: Path) -> None:
    keys = {"kimg": 0.096, "batch": 8, "validate_every_kimg": 0.016, "lr": 0.01, "patience": 2}
    for size in (1, 2):
        assert start("mlp_gan", size, tmp_path / str(size), **keys).wait() == [0] * size
    scores, others = curve(tmp_path / "1"), curve(tmp_path / "2")
    assert list(others) == list(scores)
    assert list(others.values()) == pytest.approx(list(scores.values()), rel=1e-3)
    best = min(scores, key=lambda images_seen: scores[images_seen])
    assert max(scores) == best + 32 < 96
    for size in (1, 2):
        assert json.loads((tmp_path / str(size) / "out/snapshot.json").read_text())["images_seen"] == best
    strips = [load_filmstrip(tmp_path / str(size) / "out/filmstrip.safetensors") for size in (1, 2)]
    assert strips[1].images_seen.tolist() == strips[0].images_seen.tolist() == [0, *scores]
    assert np.abs(strips[1].frames.astype(int) - strips[0].frames.astype(int)).max() <= 2
