"""The stages pretrain, finetune and baseline: packed images in, a snapshot out; one function with three starts.

A model that others may start from leaves the score of its own samples beside its snapshot (source_check.*); fine-tuning
checks it on the model that it has loaded, before the first step, and says what it took over (load_report.json).
"""

import json
import logging
from pathlib import Path
from typing import TYPE_CHECKING, Any

from genxfer.artifacts.atomic import write_json_atomic
from genxfer.config import Params
from genxfer.pipeline import Job
from genxfer.stages.origin import SNAPSHOT, SOURCE_CHECK
from genxfer.stages.pictures import GRID_IMAGES, draw, save_grid, spread
from genxfer.training.precision import resolve_precision
from genxfer.transfer.config import Full, MethodConfig

if TYPE_CHECKING:
    from genxfer.models.family import Family
    from genxfer.training.config import TrainConfig

logger = logging.getLogger("genxfer.stages")

LOAD_REPORT = "load_report.json"
FILMSTRIP = "filmstrip.safetensors"  # of a run that was validated; of others it has no frame


def run_pretrain(job: Job) -> dict[str, Any]:
    """Train on the source domain from random weights."""
    facts = _train(job, "dataset_source", job.params.pretraining(), Full(), init=None)
    if facts:
        _publish_source_check(job, "dataset_source")
    return facts


def run_finetune(job: Job) -> dict[str, Any]:
    """Go on from the source model on the target domain, by the method that is asked for or chosen."""
    init = snapshot_files(job, "pretrain")
    method = job.params.method()
    if job.params.finetune.method is None:
        logger.info("finetune.method auto: %s", job.params.choice().why)
    start = _checked_start(job, init, method) if job.nodes.leads else {}
    facts = _train(job, "dataset_target", job.params.finetuning(), method, init)
    if facts:
        write_json_atomic(job.out_dir / LOAD_REPORT, start)
        _publish_source_check(job, "dataset_target")
        facts |= {"taken_over_share": start["share"], "source_check": start["source_check"]}
    return facts


def run_baseline(job: Job) -> dict[str, Any]:
    """Train on the target domain from random weights, with the fine-tuning's budget and seed."""
    return _train(job, "dataset_target", job.params.baseline_training(), Full(), init=None)


def _train(
    job: Job, dataset: str, config: "TrainConfig", method: MethodConfig, init: tuple[Path, Path] | None
) -> dict[str, Any]:
    """Train in as many processes, on as many hosts, as asked for; write the snapshot, the curves and a sample grid."""
    from genxfer.launch.launcher import carry_out
    from genxfer.training.config import check_batch
    from genxfer.training.device import process_count
    from genxfer.training.job import TrainingJob

    params = job.params
    training = TrainingJob(
        model=method.family_config(params.family).model_dump(mode="json"),
        channels=params.dataset.channels,
        resolution_px=params.dataset.resolution_px,
        images=job.inputs[f"{dataset}/train.npy"],
        validation=job.inputs.get(f"{dataset}/validation.npy"),
        config=config,
        method=method.model_dump(mode="json"),
        init=init,
        min_taken_over=params.finetune.min_taken_over,
        compute=params.compute,
        work_dir=job.work_dir,
        out_dir=job.out_dir,
        leads=job.nodes.leads,
    )
    processes = process_count(params.compute.devices)
    check_batch(config.batch, processes * job.nodes.count, f"{_section(job.stage.name)}.batch")
    run_id = f"{job.stage.name}-{job.fingerprint}"
    facts = carry_out(training, processes, job.tracker, job.nodes, run_id)
    if facts is None:  # another host leads, and publishes
        return {}
    save_grid(job.out_dir / "samples.png", draw(_published(job), GRID_IMAGES, config.seed))
    return facts


def _published(job: Job) -> "Family":
    """Return the family with the weights that the job has just written."""
    from genxfer.training.snapshot import family_of, load_snapshot

    return family_of(load_snapshot(*(job.out_dir / file for file in SNAPSHOT)))


def _checked_start(job: Job, init: tuple[Path, Path], method: MethodConfig) -> dict[str, Any]:
    """Return what is taken over of the source model, once the loaded model was found to draw as that one did.

    Only at the start: a run that goes on from its checkpoint finds the answer in its work folder.
    """
    from genxfer.models.family import ImageShape, build_family
    from genxfer.training.device import processor_threads
    from genxfer.training.snapshot import load_snapshot
    from genxfer.training.source_check import load_check
    from genxfer.training.start import checked_start

    answer = job.work_dir / LOAD_REPORT
    if not answer.exists():
        params = job.params
        shape = ImageShape(params.dataset.channels, params.dataset.resolution_px)
        config = params.finetuning()
        family = build_family(method.family_config(params.family), shape, config.seed)
        features, score = (job.inputs.get(f"pretrain/{file}") for file in SOURCE_CHECK)
        check = load_check(features, score) if features and score else None
        with processor_threads(params.compute.threads):
            source, least = load_snapshot(*init), params.finetune.min_taken_over
            start = checked_start(family, source, check, method, least, config.last_step)
        write_json_atomic(answer, start.facts())
    facts: dict[str, Any] = json.loads(answer.read_text())
    return facts


def _publish_source_check(job: Job, dataset: str) -> None:
    """Write what the published model's samples score against some of its training images."""
    import numpy as np
    import torch

    from genxfer.training.device import processor_threads
    from genxfer.training.source_check import MOST_IMAGES, own_score, save_check

    images = np.load(job.inputs[f"{dataset}/train.npy"], mmap_mode="r")
    some = torch.from_numpy(np.array(images[spread(len(images), MOST_IMAGES)]))
    with processor_threads(job.params.compute.threads):
        save_check(job.out_dir, own_score(_published(job), some))


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
        numbers |= {"min_taken_over": params.finetune.min_taken_over}
    return {
        "dataset": params.dataset.model_dump(include={"resolution_px", "channels"}),
        "model": params.family.model_dump(mode="json"),
        _section(stage): numbers,
        "compute": {"precision": resolve_precision(params.compute.precision)},
    }


def _section(stage: str) -> str:
    """Return the section of params.yaml that has the numbers of `stage`: the baseline's are the fine-tuning's."""
    return "pretrain" if stage == "pretrain" else "finetune"
