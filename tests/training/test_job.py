"""A training run as data, and what it does when memory runs out."""

from pathlib import Path
from typing import Any

import pytest
import torch

from genxfer.models.family import Family, Step
from genxfer.models.mlp import MLPVAE
from genxfer.training.distributed import World
from genxfer.training.job import TrainingJob, run_job
from genxfer.training.tracker import NullTracker
from tests.launch.launch_small import small_job


def run_with_memory_for(images: int, job: TrainingJob, monkeypatch: pytest.MonkeyPatch) -> tuple[Any, list[int]]:
    """Train `job` on a device that holds so many images at a time; return the result and the sizes that were tried."""
    tried: list[int] = []
    whole = MLPVAE.loss

    def loss(self: Family, phase: str, real: torch.Tensor, step: Step) -> dict[str, torch.Tensor]:
        tried.append(len(real))
        if len(real) > images:
            raise torch.OutOfMemoryError(f"no room for {len(real)} images")
        return whole(self, phase, real, step)

    monkeypatch.setattr(MLPVAE, "loss", loss)
    return run_job(job, NullTracker(), World()), tried


def test_a_step_that_does_not_fit_is_taken_in_smaller_parts(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    result, tried = run_with_memory_for(2, small_job("mlp_vae", tmp_path, batch=8), monkeypatch)
    assert tried[:4] == [8, 4, 2, 2]
    assert (result.micro_batch, result.images_seen) == (2, 40)


def test_what_memory_holds_is_remembered_by_the_next_attempt(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    job = small_job("mlp_vae", tmp_path, batch=8)
    run_with_memory_for(4, job, monkeypatch)
    _, tried = run_with_memory_for(4, job.model_copy(update={"config": job.config}), monkeypatch)
    assert 8 not in tried


def test_a_size_that_was_asked_for_is_not_changed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    job = small_job("mlp_vae", tmp_path, batch=8)
    asked = job.model_copy(update={"compute": job.compute.model_copy(update={"micro_batch": 4})})
    with pytest.raises(torch.OutOfMemoryError):
        run_with_memory_for(2, asked, monkeypatch)


def test_a_job_survives_its_journey_as_json(tmp_path: Path) -> None:
    job = small_job("dcgan", tmp_path)
    assert TrainingJob.model_validate_json(job.model_dump_json()) == job
