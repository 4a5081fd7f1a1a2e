"""A training run as data, and what it does when memory runs out."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from genxfer.errors import TrainingError
from genxfer.launch.launcher import MOST_RESTARTS
from genxfer.models.family import Family, Step
from genxfer.models.mlp import MLPVAE
from genxfer.training.distributed import World, join
from genxfer.training.job import TrainingJob, run_job
from genxfer.training.tracker import NullTracker
from tests.launch.launch_small import small_job
from tests.training.ranks import SERVER, Group, be_rank, free_port


def accelerator_runs_out(real: torch.Tensor) -> None:
    raise torch.OutOfMemoryError(f"no room for {len(real)} images")


def processor_runs_out(real: torch.Tensor) -> None:
    torch.empty(2**50, dtype=torch.uint8)  # for real


def run_with_memory_for(
    images: int,
    job: TrainingJob,
    monkeypatch: pytest.MonkeyPatch,
    run_out: Callable[[torch.Tensor], None] = accelerator_runs_out,
) -> tuple[Any, list[int]]:
    """Train `job` on a device that holds so many images at a time; return the result and the sizes that were tried."""
    tried: list[int] = []
    whole = MLPVAE.loss

    def loss(self: Family, phase: str, real: torch.Tensor, step: Step) -> dict[str, torch.Tensor]:
        tried.append(len(real))
        if len(real) > images:
            run_out(real)
        return whole(self, phase, real, step)

    monkeypatch.setattr(MLPVAE, "loss", loss)
    return run_job(job, NullTracker(), World()), tried


@pytest.mark.parametrize("run_out", [accelerator_runs_out, processor_runs_out])
def test_a_step_that_does_not_fit_is_taken_in_smaller_parts(
    run_out: Callable[[torch.Tensor], None], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    result, tried = run_with_memory_for(2, small_job("mlp_vae", tmp_path, batch=8), monkeypatch, run_out)
    assert tried[:4] == [8, 4, 2, 2]
    assert (result.micro_batch, result.images_seen) == (2, 40)


def test_what_memory_holds_is_remembered_by_the_next_attempt(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    job = small_job("mlp_vae", tmp_path, batch=8)
    run_with_memory_for(4, job, monkeypatch)
    _, tried = run_with_memory_for(4, job.model_copy(update={"config": job.config}), monkeypatch)
    assert 8 not in tried


def run_as_rank(rank: int, port: int, images: int, job: TrainingJob, log: Path) -> None:
    """Be one of two ranks that train `job`, each on a device that holds so many images; the first notes its tries."""
    be_rank(rank, 2, port)
    whole = MLPVAE.loss

    def loss(self: Family, phase: str, real: torch.Tensor, step: Step) -> dict[str, torch.Tensor]:
        if rank == 0:
            with log.open("a") as file:
                file.write(f"{len(real)} ")
        if len(real) > images:
            raise torch.OutOfMemoryError(f"no room for {len(real)} images")
        return whole(self, phase, real, step)

    MLPVAE.loss = loss  # type: ignore[method-assign]
    world = join()
    run_job(job, NullTracker(), world)
    world.close()


def test_several_ranks_have_found_a_size_that_fits_before_they_are_given_up(tmp_path: Path) -> None:
    job, log = small_job("mlp_vae", tmp_path, batch=128, kimg=0.128), tmp_path / "tried"
    for _ in range(1 + MOST_RESTARTS):  # as torchrun starts them
        port = free_port()
        group = Group([SERVER.Process(target=run_as_rank, args=(rank, port, 3, job, log)) for rank in range(2)])
        for process in group.processes:
            process.start()
        codes = group.wait()
        if codes == [0, 0]:
            break
    assert codes == [0, 0]
    assert list(dict.fromkeys(log.read_text().split())) == ["64", "16", "4", "1"]


def said_of_parts(name: str, folder: Path, micro_batch: int, caplog: pytest.LogCaptureFixture) -> bool:
    job = small_job(name, folder, batch=4)
    compute = job.compute.model_copy(update={"micro_batch": micro_batch})
    caplog.clear()
    run_job(job.model_copy(update={"compute": compute}), NullTracker(), World())
    return "BatchNorm has the statistics of each part" in caplog.text


def test_parts_of_a_batch_are_warned_of_where_the_nets_have_batch_norm(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    assert said_of_parts("vae", tmp_path / "parts", 2, caplog)
    assert not said_of_parts("vae", tmp_path / "whole", 4, caplog)
    assert not said_of_parts("mlp_vae", tmp_path / "without", 2, caplog)


def test_a_size_that_was_asked_for_is_not_changed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    job = small_job("mlp_vae", tmp_path, batch=8)
    asked = job.model_copy(update={"compute": job.compute.model_copy(update={"micro_batch": 4})})
    with pytest.raises(TrainingError, match=r"of 4 images, of this process's 8 in a batch of 8 .* auto or below 4, or"):
        run_with_memory_for(2, asked, monkeypatch)


def test_where_not_one_image_fits_it_is_said_what_to_lower(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(TrainingError, match=r"of 1 image, .*\(compute\.micro_batch is auto\).*or lower model\.width"):
        run_with_memory_for(0, small_job("mlp_vae", tmp_path, batch=8), monkeypatch)


def test_another_error_of_a_step_is_no_want_of_memory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def fails(real: torch.Tensor) -> None:
        raise RuntimeError("sizes do not fit")

    with pytest.raises(RuntimeError, match="sizes do not fit"):
        run_with_memory_for(2, small_job("mlp_vae", tmp_path, batch=8), monkeypatch, fails)


def test_a_job_survives_its_journey_as_json(tmp_path: Path) -> None:
    job = small_job("dcgan", tmp_path)
    assert TrainingJob.model_validate_json(job.model_dump_json()) == job
