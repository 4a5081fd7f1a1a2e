"""The training stages as a whole: what they publish beside the snapshot, and the check before the first step."""

import json
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load_file

from genxfer.config import Params, load_params
from genxfer.errors import ParameterError, TrainingError
from genxfer.models.files import WEIGHTS_FILE
from genxfer.pipeline import Job
from genxfer.stages import STAGES, training
from genxfer.stages.origin import SNAPSHOT, SOURCE_CHECK
from tests.conftest import REPOSITORY

TINY = (
    "model.width=4",
    "model.latent_dim=4",
    "dataset.resolution_px=16",
    "pretrain.kimg=0.064",
    "finetune.kimg=0.032",
    "finetune.method=full",
    "compute.devices=1",
)


@pytest.fixture
def make_job(tmp_path: Path) -> Callable[..., Job]:
    """Return a function that makes the job of a stage, with random images, and the pretrained model for `finetune`."""

    def make(stage: str, *overrides: str) -> Job:
        params: Params = load_params(REPOSITORY / "params.yaml", [*TINY, *overrides])
        channels, resolution_px = params.dataset.channels, params.dataset.resolution_px
        images = np.random.default_rng(0).integers(0, 256, (20, channels, resolution_px, resolution_px), dtype=np.uint8)
        np.save(tmp_path / f"{stage}.npy", images)
        pretrained = {f"pretrain/{file}": tmp_path / "pretrain" / "out" / file for file in (*SNAPSHOT, *SOURCE_CHECK)}
        dataset = "dataset_source" if stage == "pretrain" else "dataset_target"
        work = tmp_path / stage
        (work / "out").mkdir(parents=True, exist_ok=True)
        inputs = {f"{dataset}/train.npy": tmp_path / f"{stage}.npy", **(pretrained if stage == "finetune" else {})}
        return Job(STAGES[stage], params, "f" * 64, inputs, {}, work / "out", work, None)

    return make


@pytest.fixture
def pretrained(make_job: Callable[..., Job]) -> dict[str, Any]:
    return training.run_pretrain(make_job("pretrain"))


def report_of(job: Job) -> dict[str, Any]:
    report: dict[str, Any] = json.loads((job.out_dir / training.LOAD_REPORT).read_text())
    return report


def test_fine_tuning_checks_what_it_loaded_and_publishes_what_it_took_over(
    pretrained: dict[str, Any], make_job: Callable[..., Job]
) -> None:
    job = make_job("finetune")
    facts = training.run_finetune(job)
    report = report_of(job)
    assert report["share"] == facts["taken_over_share"] == 1
    assert report["source_check"] == facts["source_check"]
    assert report["source_check"]["passed"]
    published = {path.name for path in job.out_dir.iterdir()}
    assert {*SNAPSHOT, *SOURCE_CHECK, "load_report.json"} <= published


def test_a_batch_that_cannot_be_shared_out_is_told_by_a_key_that_there_is(
    make_job: Callable[..., Job], monkeypatch: pytest.MonkeyPatch
) -> None:
    """The baseline has the fine-tuning's numbers, and no section with numbers of its own."""
    monkeypatch.setattr("genxfer.training.device.process_count", lambda devices: 3)
    for run, stage, key in (
        (training.run_pretrain, "pretrain", "pretrain"),
        (training.run_baseline, "baseline", "finetune"),
    ):
        with pytest.raises(ParameterError, match=rf"^{key}\.batch is \d+, which does not divide among 3 processes"):
            run(make_job(stage))


def test_the_next_model_can_be_checked_against_the_one_fine_tuned_here(
    pretrained: dict[str, Any], make_job: Callable[..., Job]
) -> None:
    first = make_job("finetune")
    training.run_finetune(first)
    kept = shutil.copytree(first.out_dir, first.work_dir.parent / "kept")
    shutil.rmtree(first.work_dir)
    own = {f"pretrain/{file}": kept / file for file in (*SNAPSHOT, *SOURCE_CHECK)}
    job = make_job("finetune")
    training.run_finetune(replace(job, inputs={**job.inputs, **own}))
    assert report_of(job)["source_check"]["passed"]


def test_other_weights_than_those_that_were_scored_are_not_trained_on(
    pretrained: dict[str, Any], make_job: Callable[..., Job]
) -> None:
    job = make_job("finetune")
    score = job.inputs["pretrain/source_check.json"]
    described = json.loads(score.read_text())
    described["kid"]["value"] *= 1.2
    score.write_text(json.dumps(described))
    with pytest.raises(TrainingError, match="not the source model"):
        training.run_finetune(job)
    assert not list(job.out_dir.iterdir())


def test_a_run_that_goes_on_does_not_check_again_and_reports_the_same(
    pretrained: dict[str, Any], make_job: Callable[..., Job], caplog: pytest.LogCaptureFixture
) -> None:
    job = make_job("finetune")
    training.run_finetune(job)
    first = report_of(job)
    caplog.clear()
    with caplog.at_level("INFO", "genxfer"):
        training.run_finetune(make_job("finetune"))  # the work folder is still there
    assert "source check" not in caplog.text
    assert report_of(job) == first


def test_a_gray_source_model_becomes_a_colour_one(pretrained: dict[str, Any], make_job: Callable[..., Job]) -> None:
    job = make_job("finetune", "dataset.channels=3")
    training.run_finetune(job)
    report = report_of(job)
    assert report["share"] == 1
    assert len(report["converted"]) == 3  # two weights and the bias of the output
    assert report["source_check"]["passed"] is None
    assert json.loads((job.out_dir / "snapshot.json").read_text())["channels"] == 3


def test_too_little_taken_over_ends_before_the_first_step(
    pretrained: dict[str, Any], make_job: Callable[..., Job]
) -> None:
    job = make_job("finetune", "dataset.resolution_px=32")
    with pytest.raises(
        TrainingError, match=r"less than finetune\.min_taken_over = 0\.5(.|\n)*resolution_px \(16 there"
    ):
        training.run_finetune(job)
    training.run_finetune(make_job("finetune", "dataset.resolution_px=32", "finetune.min_taken_over=0"))
    assert 0 < report_of(job)["share"] < 0.5


@pytest.mark.parametrize(("family", "fits"), [("vae", True), ("mlp_vae", True), ("dcgan", False)])
def test_the_library_that_fits_latents_can_change_what_an_autoencoder_becomes_and_no_other(
    family: str, fits: bool
) -> None:
    size = ["dataset.resolution_px=28"] if family == "mlp_vae" else []
    params = load_params(REPOSITORY / "params.yaml", [f"model.family={family}", *size])
    for stage in ("pretrain", "finetune", "baseline"):
        assert ("scikit-learn" in STAGES[stage].libraries(params)) == fits


def test_an_autoencoder_goes_on_from_what_its_source_model_draws_from(make_job: Callable[..., Job]) -> None:
    autoencoder = ("model.family=vae", "pretrain.kimg=0.5")
    training.run_pretrain(make_job("pretrain", *autoencoder))
    job = make_job("finetune", *autoencoder)
    training.run_finetune(job)
    assert report_of(job)["source_check"]["passed"] is True
    folders = (job.out_dir.parents[1] / "pretrain/out", job.out_dir)
    source, tuned = (load_file(folder / WEIGHTS_FILE)["latents.means"] for folder in folders)
    assert source.abs().max() > 0
    assert not torch.equal(source, tuned), "fitted to the target's images"
