"""One training run as data, so that it can be done in this process or handed to others (`launch`) as JSON.

Knows where the images, the initial weights and the work folder are, and nothing of stages or of how processes start.
"""

import logging
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, Literal

from pydantic import BaseModel, ConfigDict

from genxfer.errors import GenxferError, TrainingError
from genxfer.training.config import ComputeConfig, TrainConfig, check_batch

if TYPE_CHECKING:
    from genxfer.models.family import Family
    from genxfer.training.distributed import World
    from genxfer.training.pace import TrainResult
    from genxfer.training.tracker import Tracker
    from genxfer.training.validation import Validation

logger = logging.getLogger("genxfer.training")

MICRO_BATCH_FILE = "micro_batch.json"  # what memory has turned out to hold, for the next attempt


class TrainingJob(BaseModel):
    """What to train, on which images, from which weights, and where to work."""

    model_config = ConfigDict(frozen=True, extra="forbid")
    error: ClassVar[type[GenxferError]] = TrainingError

    kind: Literal["training"] = "training"
    model: dict[str, Any]  # the family's config
    channels: int
    resolution_px: int
    images: Path  # packed
    validation: Path | None = None  # packed images that choose the best snapshot; none or too few: the last one
    config: TrainConfig
    method: dict[str, Any]  # its config
    init: tuple[Path, Path] | None = None  # a snapshot's two files
    min_taken_over: float = 1.0  # the share of the model that has to come from there
    compute: ComputeConfig
    work_dir: Path
    out_dir: Path
    leads: bool = True  # among the hosts that train together

    def run(self, tracker: "Tracker", world: "World") -> dict[str, Any]:
        """Train, as one rank of `world`, and return the run's facts; see `run_job`."""
        return run_job(self, tracker, world).facts()


def run_job(job: TrainingJob, tracker: "Tracker", world: "World") -> "TrainResult":
    """Train as `job` says, as one rank of `world`; see `engine.train` for what it writes and raises.

    When memory does not hold the images of a backward pass, fewer are tried from the last checkpoint on: half as many
    here and at once, a quarter in several processes, by those who start them again, which they do a few times only.
    Raises TrainingError where that cannot be: one image is too many, or the number was asked for.
    """
    import torch

    from genxfer.data.dataset import PackedImages
    from genxfer.training.engine import train
    from genxfer.training.snapshot import load_snapshot
    from genxfer.transfer.config import method_config

    check_batch(job.config.batch, world.size)
    while True:
        # Each host may have found out another limit; all have to take the same.
        micro_batch = int(world.gather([torch.tensor(_micro_batch(job, world.size))]).min())
        try:
            return train(
                _family(job, parts=micro_batch < job.config.batch // world.size and world.leader),
                PackedImages(job.images),
                job.config,
                work_dir=job.work_dir,
                out_dir=job.out_dir,
                tracker=tracker,
                method=method_config(job.method),
                init=load_snapshot(*job.init) if job.init else None,
                min_taken_over=job.min_taken_over,
                compute=job.compute,
                world=world,
                micro_batch=micro_batch,
                validation=_validation(job, world),
            )
        except (RuntimeError, MemoryError) as error:
            if not _out_of_memory(error):
                raise
            if job.compute.micro_batch != "auto" or micro_batch == 1:
                raise _too_large(job, micro_batch, world) from error
            fewer = max(micro_batch // (2 if world.size == 1 else 4), 1)
            _write_micro_batch(job, fewer)
            logger.warning("out of memory with %d images at a time; trying %d", micro_batch, fewer)
            if world.size > 1:
                raise
        torch.cuda.empty_cache()


def _out_of_memory(error: Exception) -> bool:
    """Whether memory ran out: an accelerator's is an error of its own, a processor's is told by its words alone."""
    import torch

    return isinstance(error, torch.OutOfMemoryError | MemoryError) or "DefaultCPUAllocator" in str(error)


def _too_large(job: TrainingJob, micro_batch: int, world: "World") -> TrainingError:
    """Return the error that says what to lower; starting again would not help."""
    lower = "lower model.width or dataset.resolution_px"
    if micro_batch > 1:
        lower = f"set compute.micro_batch to auto or below {micro_batch}, or {lower}"
    images = "image" if micro_batch == 1 else "images"
    return TrainingError(
        f"The memory of the device {world.device} does not hold a backward pass of {micro_batch} {images}, of this "
        f"process's {job.config.batch // world.size} in a batch of {job.config.batch} (compute.micro_batch is "
        f"{job.compute.micro_batch}). Give it more memory, or {lower}. The same command goes on from the last "
        "checkpoint."
    )


def _family(job: TrainingJob, parts: bool) -> "Family":
    """Return the family with new weights; warn where a batch in `parts` is not the same to it as a whole one."""
    from torch import nn

    from genxfer.models.config import family_config
    from genxfer.models.family import ImageShape, build_family

    family = build_family(family_config(job.model), ImageShape(job.channels, job.resolution_px), job.config.seed)
    if parts and any(isinstance(module, nn.BatchNorm2d) for module in family.nets.modules()):
        logger.warning(
            "a batch is taken in parts, and BatchNorm has the statistics of each part: the result is not that of whole "
            "batches (compute.micro_batch)"
        )
    return family


def _validation(job: TrainingJob, world: "World") -> "Validation | None":
    """Return what scores the run, or None where the job names no images to score it by, or too few."""
    from genxfer.data.dataset import PackedImages
    from genxfer.training.precision import resolve_precision
    from genxfer.training.validation import FEWEST_IMAGES, Validation

    if job.validation is None or job.config.validate_every_kimg is None:
        return None
    images = PackedImages(job.validation)
    if len(images) < FEWEST_IMAGES:
        if world.leader:
            logger.info(
                "the last snapshot will be published: of %d validation images, at least %d are needed to choose one",
                len(images),
                FEWEST_IMAGES,
            )
        return None
    return Validation(images, job.config, resolve_precision(job.compute.precision), world)


def _micro_batch(job: TrainingJob, processes: int) -> int:
    """Return how many images one process may have in a backward pass: as asked for, as found out, or all."""
    share = -(-job.config.batch // processes)
    if job.compute.micro_batch != "auto":
        return min(job.compute.micro_batch, share)
    path = job.work_dir / MICRO_BATCH_FILE
    return min(int(path.read_text()), share) if path.exists() else share


def _write_micro_batch(job: TrainingJob, micro_batch: int) -> None:
    from genxfer.artifacts.atomic import write_atomic
    from genxfer.training.writing import writing

    path = job.work_dir / MICRO_BATCH_FILE
    with writing(f"The limit {path}"):
        write_atomic(path, str(micro_batch).encode())
