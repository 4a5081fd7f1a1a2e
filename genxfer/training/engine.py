"""The loop: packed images in, a snapshot out. One engine for every family; progress is counted in images.

A step is a pure function of (weights, seed, images_seen): its batch and its noise follow from these, so a run that was
stopped anywhere goes on from its checkpoint, on a processor to the same bits. The blocks of the loop are the phases,
the average, the report, the samples and the checkpoint. Knows families by their phases, and nothing of stages.
"""

import hashlib
import logging
import shutil
import time
from functools import partial
from pathlib import Path

import torch
from torch import Tensor, nn

from genxfer.data.augment import augment
from genxfer.data.dataset import PackedImages, indices, to_model_range, to_uint8
from genxfer.errors import GenxferError
from genxfer.models.family import Family, Phase, Step, sample
from genxfer.training.checkpoint import read_newest, write_checkpoint
from genxfer.training.config import ComputeConfig, TrainConfig, lr_at
from genxfer.training.device import processor_threads, training_device
from genxfer.training.ema import ema_decay
from genxfer.training.interrupt import Interrupts
from genxfer.training.losses import minimised
from genxfer.training.pace import Pace, TrainResult
from genxfer.training.precision import Precision, resolve_precision
from genxfer.training.snapshot import Snapshot, load_into, save_snapshot
from genxfer.training.state import TrainingState
from genxfer.training.tracker import CurveFile, Tracker, Trackers
from genxfer.transfer import freeze
from genxfer.transfer.config import FreezePolicy, check_policy, frozen_counts

logger = logging.getLogger("genxfer.training")

CURVES_FILE = "curves.csv"
SAMPLES_SHOWN = 32
PROGRESS_EVERY_S = 0.5
# Checkpoints, and samples, each take at most about this share of the time, however large the nets and slow the disk.
ALLOWED_SHARE = 0.04


def train(
    family: Family,
    images: PackedImages,
    config: TrainConfig,
    *,
    work_dir: Path,
    out_dir: Path,
    tracker: Tracker,
    policy: FreezePolicy | None = None,
    init: Snapshot | None = None,
    compute: ComputeConfig | None = None,
) -> TrainResult:
    """Train `family` on `images` and write snapshot.safetensors, snapshot.json and curves.csv into `out_dir`.

    Starts from `init`, or from the family's present weights; where `work_dir` holds a checkpoint, goes on from that. On
    return the family's sampling nets hold the averaged weights. Raises TrainingError when `init` does not fit or a loss
    is not finite, StoreError when a checkpoint cannot be written, Interrupted (or what the former handler raises) after
    a signal, its checkpoint written.
    """
    policy, compute = policy or FreezePolicy(), compute or ComputeConfig()
    check_policy(policy, family.config.layer_groups(family.shape.resolution_px))
    if init is not None:
        load_into(family, init)
    state = TrainingState(family, training_device())
    if found := read_newest(work_dir):
        state.restore(found)
        logger.info("going on from the checkpoint at %g kimg", state.images_seen / 1000)
    trackers = Trackers([CurveFile(work_dir / CURVES_FILE), tracker])
    run = Run(state, images, config, policy, resolve_precision(compute.precision), trackers)
    with processor_threads(compute.threads), Interrupts() as interrupts:
        try:
            trackers.start(total_images(config), state.images_seen)
            run.loop(work_dir, compute.checkpoint_every_s, interrupts)
        except GenxferError:  # diverged, or no room for a checkpoint: another one would not help
            raise
        except BaseException:
            if run.between_steps:
                run.save(work_dir)
            raise
        finally:
            trackers.close()
    state.publish_average()
    save_snapshot(out_dir, family, images_seen=state.images_seen, parent=init)
    shutil.copyfile(work_dir / CURVES_FILE, out_dir / CURVES_FILE)
    return run.result(None if found is None else found.images_seen)


class Run:
    """One training run in one process: its state, its data, and its loop."""

    def __init__(
        self,
        state: TrainingState,
        images: PackedImages,
        config: TrainConfig,
        policy: FreezePolicy,
        precision: Precision,
        tracker: Tracker,
    ) -> None:
        self.state, self.images, self.config, self.policy = state, images, config, policy
        self.precision: Precision = precision
        self.tracker = tracker
        self.generator = torch.Generator(state.device)
        self.moving: dict[str, list[nn.Parameter]] = {}
        self.pace = Pace()
        self.between_steps = True  # whether the state is one that a checkpoint may hold

    def loop(self, work_dir: Path, checkpoint_every_s: float, interrupts: Interrupts) -> None:
        """Train to the end of the budget, or to the end of the step in which a signal came."""
        state, config, family = self.state, self.config, self.state.family
        total = total_images(config)
        counts: dict[str, int] | None = None
        next_progress_s, next_checkpoint_s = 0.0, self.pace.seconds + checkpoint_every_s
        while state.images_seen < total:
            # Freeze, and thaw.
            if (due := frozen_counts(self.policy, state.images_seen)) != counts:
                counts = due
                self.hold(counts)

            # Phases: each of the family's optimizers has its turn on the same real images.
            real = self.next_batch()
            self.between_steps = False
            for phase in family.phases:
                if any(self.moving[net] for net in phase.nets):
                    self.take_turn(phase, real)

            # Average.
            state.images_seen += config.batch
            self.pace.images += config.batch
            state.ema.update(ema_decay(config.ema_kimg, state.images_seen, config.batch))

            # Report.
            if self.crossed(config.report_every_kimg):
                means = state.losses.means(state.images_seen)
                state.losses.reset()
                self.tracker.log(means, state.images_seen)
            self.between_steps = True
            if self.pace.seconds >= next_progress_s or state.images_seen >= total:
                next_progress_s = self.pace.seconds + PROGRESS_EVERY_S
                self.tracker.progress(state.images_seen, self.pace.images_per_s)

            # Samples.
            affordable = self.pace.samples_s <= ALLOWED_SHARE * self.pace.seconds or state.images_seen >= total
            if self.crossed(config.samples_every_kimg) and affordable:
                self.show_samples()

            # Checkpoint.
            if interrupts.received is not None or self.pace.seconds >= next_checkpoint_s:
                took_s = self.save(work_dir)
                next_checkpoint_s = self.pace.seconds + max(checkpoint_every_s, took_s / ALLOWED_SHARE)
            if interrupts.received is not None:
                return

    def next_batch(self) -> Tensor:
        """Return the real images of this step [N C H W] in [-1, 1], in the family's memory layout, on the device."""
        started_s, config, device = time.perf_counter(), self.config, self.state.device
        chosen = indices(len(self.images), config.seed, self.state.images_seen, config.batch)
        real = to_model_range(self.images.batch(chosen).to(device, non_blocking=True))
        if config.mirror:
            generator = self.seeded("mirror")
            mirrored = torch.rand(len(real), 1, 1, 1, generator=generator, device=device) < 0.5
            real = torch.where(mirrored, real.flip(3), real)
        real = real.contiguous(memory_format=self.state.family.memory_format)
        self.pace.data_s += time.perf_counter() - started_s
        return real

    def take_turn(self, phase: Phase, real: Tensor) -> None:
        """Move the nets of `phase` by one step of their optimizer."""
        state = self.state
        for net, parameters in self.moving.items():  # the gradients of the other nets are not worth computing
            for parameter in parameters:
                parameter.requires_grad_(net in phase.nets)
        generator = self.seeded(phase.name)
        augmented = partial(augment, policy=self.config.augment, generator=generator)
        step = Step(state.images_seen // self.config.batch, state.images_seen, generator, augmented)
        with torch.autocast(state.device.type, torch.bfloat16, enabled=self.precision == "bf16"):
            terms = state.family.loss(phase.name, real, step)
        state.losses.add(terms, state.images_seen)
        minimised(terms).backward()
        state.optimizers[phase.name].step(lr_at(self.config, state.images_seen))

    def hold(self, counts: dict[str, int]) -> None:
        """Fix the first `counts[net]` layer groups of each net, let the others move, and say so in the log."""
        family = self.state.family
        freeze.apply(family, counts)
        self.moving = {
            name: [parameter for parameter in net.parameters() if parameter.requires_grad]
            for name, net in family.nets.items()
        }
        table = freeze.summary(freeze.group_rows(family, counts))
        logger.info("at %g kimg these layer groups move:\n%s", self.state.images_seen / 1000, table)

    def show_samples(self) -> None:
        """Draw from the averaged nets, from the same seeds each time."""
        started_s = time.perf_counter()
        drawn = sample(self.state.family, self.state.ema.nets, SAMPLES_SHOWN, self.config.seed)
        self.tracker.picture("samples", to_uint8(drawn).numpy(), self.state.images_seen)
        self.pace.samples_s += time.perf_counter() - started_s

    def save(self, work_dir: Path) -> float:
        """Write a checkpoint, unless a loss was not finite; return the seconds it took."""
        started_s = time.perf_counter()
        self.state.losses.means(self.state.images_seen)
        write_checkpoint(work_dir, self.state.checkpoint())
        took_s = time.perf_counter() - started_s
        self.pace.checkpoint_s += took_s
        return took_s

    def seeded(self, purpose: str) -> torch.Generator:
        """Return the generator of this step for `purpose`, a phase's name or "mirror"; the former one is used up."""
        return self.generator.manual_seed(noise_seed(self.config.seed, self.state.images_seen, purpose))

    def crossed(self, every_kimg: float) -> bool:
        """Return whether the step just taken passed a multiple of `every_kimg`, or was the last."""
        every_images, seen = max(round(every_kimg * 1000), 1), self.state.images_seen
        passed = seen // every_images > (seen - self.config.batch) // every_images
        return passed or seen >= total_images(self.config)

    def result(self, resumed_from: int | None) -> TrainResult:
        """Return how the run went."""
        pace, seconds = self.pace, max(self.pace.seconds, 1e-9)
        counts = frozen_counts(self.policy, max(self.state.images_seen - self.config.batch, 0))
        moved, fixed = freeze.totals(freeze.group_rows(self.state.family, counts))
        return TrainResult(
            images_seen=self.state.images_seen,
            seconds=seconds,
            images_per_s=pace.images_per_s,
            data_wait_share=pace.data_s / seconds,
            checkpoint_share=pace.checkpoint_s / seconds,
            samples_share=pace.samples_s / seconds,
            moved_parameters=moved,
            fixed_parameters=fixed,
            precision=self.precision,
            resumed_from=resumed_from,
        )


def total_images(config: TrainConfig) -> int:
    """Return the budget in images; the step that reaches it is the last one."""
    return round(config.kimg * 1000)


def noise_seed(seed: int, images_seen: int, purpose: str) -> int:
    """Return the seed of all noise that one phase draws in one step: 8 bytes of SHA-256("seed/images/purpose").

    A hash, because neighbouring seeds and steps must not share noise; no state, because a checkpoint then needs none.
    """
    return int.from_bytes(hashlib.sha256(f"{seed}/{images_seen}/{purpose}".encode()).digest()[:8], "little")
