"""The stage evaluate on tiny models: what it hands to the page, the same each time, and what it leaves out."""

import json
import re
import shutil
from collections.abc import Callable
from dataclasses import replace
from html import unescape
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file

from genxfer.artifacts.fingerprint import digest_file
from genxfer.artifacts.record import ObjectRef, Record
from genxfer.config import Params, load_params
from genxfer.data.dataset import PackedImages
from genxfer.errors import ParameterError, StoreError
from genxfer.launch.launcher import JOB_FILE
from genxfer.metrics import load_extractor
from genxfer.metrics.kid import kid
from genxfer.metrics.sets import FeatureSets
from genxfer.metrics.weights import VARIABLE
from genxfer.pipeline import Job
from genxfer.stages import STAGES, training
from genxfer.stages.closeups import SHOWN_PAIRS, extremes
from genxfer.stages.evaluation import run_evaluate
from genxfer.stages.features import KEPT
from genxfer.training.filmstrip import load_filmstrip
from tests.conftest import REPOSITORY

TINY = (
    "model.width=4",
    "model.latent_dim=4",
    "dataset.resolution_px=16",
    "pretrain.kimg=0.064",
    "finetune.kimg=0.064",
    "finetune.validate_every_kimg=0.016",
    "finetune.method=full",
    "evaluate.extractor=pixels",
    "evaluate.n_samples=40",
    "compute.devices=1",
)
PARTS = {"train": 20, "validation": 6, "test": 30}

Evaluate = Callable[..., Path]


class Results:
    """Finished stages in a folder each, and the records that a job would find of them."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.records: dict[str, Record] = {}

    def keep(self, stage: str, facts: dict[str, object]) -> None:
        files = (self.folder / stage).iterdir()
        outputs = {path.name: ObjectRef(digest_file(path), path.stat().st_size) for path in files if path.is_file()}
        self.records[stage] = Record(stage, "f" * 64, {}, outputs, 1.0, "", {}, facts)

    def job(self, stage: str, params: Params, out_dir: Path) -> Job:
        wanted = STAGES[stage].inputs(params)
        inputs = {f"{name}/{file}": self.folder / name / file for name, files in wanted.items() for file in files}
        out_dir.mkdir(parents=True)
        upstream = {name: self.records[name] for name in wanted}
        return Job(STAGES[stage], params, "f" * 64, inputs, upstream, out_dir, out_dir.with_suffix(".work"), None)


@pytest.fixture(scope="module")
def results(tmp_path_factory: pytest.TempPathFactory) -> Results:
    """Tiny models of every training stage, on images of noise."""
    made = Results(tmp_path_factory.mktemp("results"))
    draw = np.random.default_rng(0)
    for stage in ("dataset_source", "dataset_target"):
        (made.folder / stage).mkdir()
        for part, n in PARTS.items():
            np.save(made.folder / stage / f"{part}.npy", draw.integers(0, 256, (n, 1, 16, 16), dtype=np.uint8))
        (made.folder / stage / "manifest.json").write_text("{}")
        made.keep(stage, {})
    params = load_params(REPOSITORY / "params.yaml", TINY)
    for stage in ("pretrain", "finetune", "baseline"):
        job = made.job(stage, params, made.folder / stage)
        made.keep(stage, getattr(training, f"run_{stage}")(job))
    return made


@pytest.fixture
def evaluate(results: Results, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Evaluate:
    """Evaluate these models with more parameters than TINY, and return the folder of the outcome."""
    monkeypatch.chdir(tmp_path)

    def run(name: str, *overrides: str, change: Callable[[Job], Job] = lambda job: job) -> Path:
        params = load_params(REPOSITORY / "params.yaml", (*TINY, *overrides))
        job = change(results.job("evaluate", params, tmp_path / name))
        run_evaluate(job)
        return job.out_dir

    return run


def words_of(folder: Path) -> str:
    page = (folder / "report.html").read_text()
    return " ".join(unescape(re.sub(r"<style>.*?</style>|<[^>]*>", " ", page, flags=re.DOTALL)).split())


@pytest.mark.slow
def test_the_page_has_strips_close_ups_and_the_words_of_the_check(results: Results, evaluate: Evaluate) -> None:
    folder = evaluate("first")
    page, words = (folder / "report.html").read_text(), words_of(folder)
    numbers = json.loads((folder / "metrics.json").read_text())
    for heading in ("Over training", "The best and the worst", "Does it copy?", "From one sample to another"):
        assert heading in words
    assert page.count('<figure class="marked">') == 2  # one moment of each training is published
    assert words.count("start") == 2
    assert f"{100 * numbers['copies']:.1f} % of its samples are copies of training images, or nearly so" in words
    assert f"{100 * numbers['memorization']:.1f} % lie next to one" in words
    assert f"{100 * numbers['memorization_heldout']:.1f} % of unseen real images do" in words
    assert f"up to {100 * numbers['memorization_threshold']:.1f} % is allowed" in words
    best = results.records["finetune"].facts["best_kimg"]
    assert re.search(rf"What is published is .*at {best:g} kimg", words)
    strip = load_filmstrip(results.folder / "finetune/filmstrip.safetensors")
    assert strip.images_seen.tolist() == [0, 16, 32, 48, 64]


@pytest.mark.slow
def test_the_very_samples_that_are_tested_are_scored_on_the_validation_images(
    results: Results, evaluate: Evaluate, tmp_path: Path
) -> None:
    numbers = json.loads((evaluate("first") / "metrics.json").read_text())
    samples = load_file(next(tmp_path.glob("first.work/features/transferred-0-40.safetensors")))["features"]
    validation = PackedImages(results.folder / "dataset_target/validation.npy").batch(np.arange(PARTS["validation"]))
    expected = kid(FeatureSets(load_extractor("pixels", "cpu", None).features(validation), samples)).numbers["kid"]
    assert numbers["kid_validation"] == pytest.approx(expected.value, rel=1e-6)
    assert numbers["kid_validation_standard_error"] == pytest.approx(expected.standard_error, rel=1e-6)
    assert numbers["n_validation"] == PARTS["validation"]
    assert numbers["kid_validation"] != numbers["kid"]


@pytest.mark.slow
def test_without_validation_images_no_number_of_theirs_is_made_up(evaluate: Evaluate, tmp_path: Path) -> None:
    np.save(tmp_path / "none.npy", np.empty((0, 1, 16, 16), dtype=np.uint8))

    def without(job: Job) -> Job:
        return replace(job, inputs={**job.inputs, "dataset_target/validation.npy": tmp_path / "none.npy"})

    numbers = json.loads((evaluate("none", change=without) / "metrics.json").read_text())
    assert (numbers["kid_validation"], numbers["n_validation"]) == (None, 0)


@pytest.mark.slow
def test_an_evaluation_gives_the_same_bytes_each_time(evaluate: Evaluate) -> None:
    first, second = evaluate("first"), evaluate("second")
    names = sorted(path.name for path in first.iterdir())
    assert "report.html" in names
    assert [(second / name).read_bytes() for name in names] == [(first / name).read_bytes() for name in names]


@pytest.mark.slow
def test_two_processes_give_the_bytes_of_one(evaluate: Evaluate, tmp_path: Path) -> None:
    lite0 = ("evaluate.extractor=lite0", "evaluate.n_samples=75")
    alone = evaluate("alone", *lite0)
    shutil.rmtree(tmp_path / KEPT)
    together = evaluate("together", *lite0, "compute.devices=2")
    assert (tmp_path / "together.work" / JOB_FILE).exists()
    for path in alone.iterdir():
        assert (together / path.name).read_bytes() == path.read_bytes(), path.name


@pytest.mark.slow
def test_what_is_kept_is_not_taken_again_and_one_block_starts_no_process(evaluate: Evaluate, tmp_path: Path) -> None:
    first = evaluate("first")
    second = evaluate("second", "compute.devices=2")
    assert (second / "metrics.json").read_bytes() == (first / "metrics.json").read_bytes()
    taken = [sorted(path.name for path in tmp_path.glob(f"{name}.work/features/*")) for name in ("first", "second")]
    assert [name.split("-")[0] for name in taken[0]] == [
        "scratch",
        "source",
        "test",
        "train",
        "transferred",
        "validation",
    ]
    assert taken[1] == ["transferred-0-40.safetensors"]
    assert not (tmp_path / "second.work" / JOB_FILE).exists()


@pytest.mark.slow
@pytest.mark.parametrize("devices", [1, 2])
def test_a_failed_evaluation_leaves_no_output(devices: int, evaluate: Evaluate, tmp_path: Path) -> None:
    (tmp_path / "out.work").mkdir()
    (tmp_path / "out.work/features").write_text("in the way")
    with pytest.raises(StoreError, match="cannot be written"):
        evaluate("out", f"compute.devices={devices}")
    assert list((tmp_path / "out").iterdir()) == []


@pytest.mark.parametrize("devices", [1, 2])
def test_missing_weights_are_told_alike_by_any_number_of_processes(
    devices: int, evaluate: Evaluate, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("GENXFER_CACHE", str(tmp_path / "none"))
    monkeypatch.delenv(VARIABLE, raising=False)
    with pytest.raises(ParameterError, match="never downloaded unasked"):
        evaluate("out", "evaluate.extractor=inception", f"compute.devices={devices}")
    assert not (tmp_path / "out.work" / JOB_FILE).exists()


@pytest.mark.slow
def test_what_was_not_made_or_measured_is_not_shown(evaluate: Evaluate) -> None:
    words = words_of(evaluate("first", "baseline.enabled=false", "evaluate.metrics=[kid]"))
    assert "baseline.enabled: false" in words
    assert "Whether its samples repeat training images was not measured." in words
    assert "Closest to training images" not in words
    assert "from scratch" not in words.split("All numbers")[1]


@pytest.mark.slow
def test_samples_that_are_training_images_are_called_copies(evaluate: Evaluate, tmp_path: Path) -> None:
    """The model's own samples stand in for the training images: nothing is more of a copy."""
    samples = np.load(evaluate("first") / "samples.npy")[:20]
    np.save(tmp_path / "train.npy", samples)

    def trained_on_its_samples(job: Job) -> Job:
        target = job.upstream["dataset_target"]
        outputs = {**target.outputs, "train.npy": ObjectRef(digest_file(tmp_path / "train.npy"), 1)}
        return replace(
            job,
            inputs={**job.inputs, "dataset_target/train.npy": tmp_path / "train.npy"},
            upstream={**job.upstream, "dataset_target": replace(target, outputs=outputs)},
        )

    words = words_of(evaluate("copies", change=trained_on_its_samples))
    assert "but the samples copy training images." in words
    assert "The transferred model copies: " in words


def test_the_most_and_the_least_alike_are_found_and_none_is_both() -> None:
    real = torch.tensor([[0.0], [100.0]])
    fake = torch.tensor([[float(i)] for i in range(40)])
    most, least = extremes(real, fake)
    assert [match.sample for match in most] == list(range(SHOWN_PAIRS))
    assert [match.sample for match in least] == [39, 38, 37, 36, 35, 34, 33, 32]
    assert {match.test for match in (*most, *least)} == {0}
    most, least = extremes(real, fake[:5])
    assert ([match.sample for match in most], [match.sample for match in least]) == ([0, 1], [4, 3])
    assert extremes(real, torch.tensor([[99.0], [3.0]]))[0][0].test == 1
