"""The stages pretrain, finetune and baseline: packed images in, a snapshot out; one function with three starts."""

import logging
from pathlib import Path
from typing import TYPE_CHECKING, Any

from genxfer.config import Params
from genxfer.pipeline import Job
from genxfer.stages.pictures import GRID_IMAGES, draw, save_grid
from genxfer.training.precision import resolve_precision
from genxfer.transfer.config import Full, MethodConfig

if TYPE_CHECKING:
    from genxfer.training.config import TrainConfig
    from genxfer.training.pace import TrainResult

logger = logging.getLogger("genxfer.stages")

SNAPSHOT = ("snapshot.safetensors", "snapshot.json")


def run_pretrain(job: Job) -> dict[str, Any]:
    """Train on the source domain from random weights."""
    return _train(job, "dataset_source", job.params.pretraining(), Full(), init=None)


def run_finetune(job: Job) -> dict[str, Any]:
    """Go on from the source model on the target domain, by the method that is asked for or chosen."""
    init = snapshot_files(job, "pretrain")
    method = job.params.method()
    if job.params.finetune.method is None:
        logger.info("finetune.method auto: %s", job.params.choice().why)
    return _train(job, "dataset_target", job.params.finetuning(), method, init)


def run_baseline(job: Job) -> dict[str, Any]:
    """Train on the target domain from random weights, with the fine-tuning's budget and seed."""
    return _train(job, "dataset_target", job.params.baseline_training(), Full(), init=None)


def _train(
    job: Job, dataset: str, config: "TrainConfig", method: MethodConfig, init: tuple[Path, Path] | None
) -> dict[str, Any]:
    """Train in as many processes, on as many hosts, as asked for; write the snapshot, the curves and a sample grid."""
    from genxfer.training.config import check_batch
    from genxfer.training.device import process_count
    from genxfer.training.distributed import World
    from genxfer.training.job import TrainingJob, run_job
    from genxfer.training.snapshot import family_of, load_snapshot

    params = job.params
    training = TrainingJob(
        model=method.family_config(params.family).model_dump(mode="json"),
        channels=params.dataset.channels,
        resolution_px=params.dataset.resolution_px,
        images=job.inputs[f"{dataset}/train.npy"],
        config=config,
        method=method.model_dump(mode="json"),
        init=init,
        compute=params.compute,
        work_dir=job.work_dir,
        out_dir=job.out_dir,
        leads=job.nodes.leads,
    )
    processes = process_count(params.compute.devices)
    check_batch(config.batch, processes * job.nodes.count, f"{job.stage.section}.batch")
    result: TrainResult | None
    if processes * job.nodes.count == 1:
        result = run_job(training, job.tracker, World())
    else:
        from genxfer.launch.launcher import launch

        result = launch(training, processes, job.tracker, job.nodes, run_id=f"{job.stage.name}-{job.fingerprint}")
    if result is None:  # another host leads, and publishes
        return {}
    family = family_of(load_snapshot(*(job.out_dir / file for file in SNAPSHOT)))
    save_grid(job.out_dir / "samples.png", draw(family, GRID_IMAGES, config.seed))
    return result.facts()


def snapshot_files(job: Job, stage: str) -> tuple[Path, Path]:
    """Return the weights and the description that `stage` published."""
    weights, description = (job.inputs[f"{stage}/{file}"] for file in SNAPSHOT)
    return weights, description


def training_parameters(stage: str, params: Params) -> dict[str, Any]:
    """Return what decides a training run, by section: the model, the numbers, what stays fixed, the precision."""
    own = {"pretrain": Params.pretraining, "finetune": Params.finetuning, "baseline": Params.baseline_training}
    numbers = own[stage](params).model_dump(mode="json")
    if stage == "finetune":
        numbers |= params.method().model_dump(mode="json")
    return {
        "dataset": params.dataset.model_dump(include={"resolution_px", "channels"}),
        "model": params.family.model_dump(mode="json"),
        "pretrain" if stage == "pretrain" else "finetune": numbers,  # the baseline has those of its section
        "compute": {"precision": resolve_precision(params.compute.precision)},
    }
