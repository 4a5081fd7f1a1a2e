"""The loop: the blocks of a step are the phases, the average, the report, the samples and the checkpoint.

A step is a pure function of (weights, seed, images_seen): its batch and its noise follow from these, so a run that was
stopped anywhere goes on from its checkpoint, on a processor to the same bits. Knows families by their phases, other
processes by its `World`, and nothing of stages.
"""

import copy
import logging
import math
import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import torch
from torch import nn

from genxfer.artifacts.atomic import flush
from genxfer.data.dataset import PackedImages, to_model_range, to_uint8
from genxfer.models.family import Phase, sample
from genxfer.training.checkpoint import write_checkpoint
from genxfer.training.config import TrainConfig, lr_at
from genxfer.training.distributed import World
from genxfer.training.ema import ema_decay
from genxfer.training.feed import Feed
from genxfer.training.filmstrip import FilmFile
from genxfer.training.health import (
    DivergenceError,
    check_finite,
    check_watched,
    check_weights,
    warn_of_unwatched,
)
from genxfer.training.interrupt import Interrupts
from genxfer.training.pace import Pace, TrainResult
from genxfer.training.precision import Precision
from genxfer.training.seeds import noise_seed
from genxfer.training.state import TrainingState
from genxfer.training.tracker import Tracker
from genxfer.training.turn import Turn
from genxfer.training.validation import Validation
from genxfer.training.writing import writing
from genxfer.transfer import freeze

logger = logging.getLogger("genxfer.training")

SAMPLES_SHOWN = 32
VALIDATION_CURVE = "validation_kid"
PROGRESS_EVERY_S = 0.5
# Checkpoints, and samples, each take at most about this share of the time, however large the nets and slow the disk.
ALLOWED_SHARE = 0.02
CURVES_FILE = "curves.csv"
FRAMES_FILE = "frames"  # in the work folder
GOOD_FOLDER = "good"  # in the work folder: the state to roll back to
ROLLBACK_LR = 0.5  # the learning rate's factor after each rollback
MOST_FITTED_IMAGES, FITTED_AT_ONCE = 2000, 32  # of the training images, for what is fitted to them


class Run:
    """One training run in one process: its state, its data, and its loop."""

    def __init__(
        self,
        state: TrainingState,
        images: PackedImages,
        config: TrainConfig,
        precision: Precision,
        tracker: Tracker,
        world: World,
        micro_batch: int | None = None,
        validation: Validation | None = None,
        film: FilmFile | None = None,
    ) -> None:
        self.film = film
        self.state, self.config, self.method, self.validation = state, config, state.method, validation
        self.precision: Precision = precision
        self.tracker, self.world = tracker, world
        self.images = images
        self.feed = Feed(images, config, world, state.family.memory_format)
        share = world.rows(config.batch)
        self.micro_batch = min(micro_batch or config.batch, share.stop - share.start)
        self.generator = torch.Generator(world.device)
        self.moving: dict[str, list[nn.Parameter]] = {}
        self.turns: dict[str, Turn] = {}
        self.method.hold(state.family, self.method.config.fixed_groups(0))
        self.rows_at_start = self.rows = freeze.group_rows(state.family)  # what moves at first, and at present
        self.pace = Pace()
        self.between_steps = True  # whether the state is one that a checkpoint may hold
        self.good = copy.deepcopy(state.ema.nets)  # the average at the last report that found nothing wrong
        self.good_images_seen = 0
        if state.images_seen and self.weights_are_finite:  # resumed: good until a report says otherwise
            self.good_images_seen = state.images_seen
        if world.leader:
            warn_of_unwatched(state.family.watched, self.micro_batch)

    def loop(self, work_dir: Path, checkpoint_every_s: float, interrupts: Interrupts) -> bool:
        """Train to the end and return True, or to the end of the step in which all agree to stop."""
        state, config, family, world = self.state, self.config, self.state.family, self.world
        self.hold(fixed := self.method.config.fixed_groups(state.images_seen))
        next_progress_s, next_checkpoint_s = 0.0, self.pace.seconds + checkpoint_every_s
        if self.validation and state.images_seen == 0 and world.leader:
            with self.pace.validating():
                self.validation.draw(family, state.ema.nets)
                self.add_frame(self.validation)
        while not self.at_end:
            # Freeze, and thaw.
            if (due := self.method.config.fixed_groups(state.images_seen)) != fixed:
                fixed = due
                self.hold(fixed)

            # Phases: each of the family's optimizers has its turn on the same real images.
            real = self.feed.batch(state.images_seen)
            self.between_steps = False
            for phase in family.phases:
                if any(self.moving[net] for net in phase.nets):
                    self.take_turn(phase, real)
            self.feed.look_ahead(state.images_seen + config.batch)

            # Average.
            state.images_seen += config.batch
            self.pace.images += config.batch
            state.ema.update(ema_decay(config.ema_kimg, state.images_seen, config.batch))

            # Augment more, or less, from the next step on.
            state.augment_chance.adjust(state.images_seen // config.batch)

            # Validate.
            scores: dict[str, float] = {}
            if self.validation and config.validate_every_kimg and self.crossed(config.validate_every_kimg):
                with self.pace.validating():
                    scores = self.validate(self.validation)

            # Report.
            if scores or self.crossed(config.report_every_kimg):
                with self.pace.reporting():
                    self.report(work_dir, scores)
            self.between_steps = True
            if self.pace.seconds >= next_progress_s or self.at_end:
                next_progress_s = self.pace.seconds + PROGRESS_EVERY_S
                with self.pace.reporting():
                    self.tracker.progress(state.images_seen, self.pace.images_per_s)

            # Samples.
            affordable = self.pace.samples_s <= ALLOWED_SHARE * self.pace.seconds or self.at_end
            if world.leader and self.crossed(config.samples_every_kimg) and affordable:
                self.show_samples()

            # Checkpoint.
            overdue = world.leader and self.pace.seconds >= next_checkpoint_s
            if overdue:  # asked for once: where the answer comes a step late, a second wish would write it twice
                next_checkpoint_s = math.inf
            stop, checkpoint = world.agree(interrupts.received is not None, overdue)
            if stop or checkpoint:
                took_s = self.save(work_dir)
                next_checkpoint_s = self.pace.seconds + max(checkpoint_every_s, took_s / ALLOWED_SHARE)
            if stop:
                return False
        if world.leader and state.images_seen < config.total_images:
            reason = f"{config.patience} validations in a row brought no improvement"
            logger.info("ends at %g of %g kimg: %s", state.images_seen / 1000, config.kimg, reason)
        return True

    def take_turn(self, phase: Phase, real: torch.Tensor) -> None:
        """Move the nets of `phase` by one step of their optimizer."""
        state, config = self.state, self.config
        for net, parameters in self.moving.items():  # the gradients of the other nets are not worth computing
            for parameter in parameters:
                parameter.requires_grad_(net in phase.nets)
        if phase.name not in self.turns:
            self.turns[phase.name] = Turn(state.family, phase, self.method, self.world, config.augment, self.precision)
        again = f"#{state.rollbacks}" if state.rollbacks else ""  # what failed must not be repeated to the same bits
        generator = self.generator.manual_seed(noise_seed(config.seed, state.images_seen, phase.name + again))
        index = state.images_seen // config.batch
        turn = self.turns[phase.name]
        chance = state.augment_chance
        for terms, share in turn.gradients(
            real, config.batch, index, state.images_seen, generator, self.micro_batch, chance.p
        ):
            state.losses.add(terms, state.images_seen, share)
            chance.add(terms, round(share * len(real)))
        state.optimizers[phase.name].step(lr_at(config, state.images_seen) * ROLLBACK_LR**state.rollbacks)

    def hold(self, fixed: dict[str, int]) -> None:
        """Let move what the method lets move while it fixes so many layer groups of each net; say so in the log."""
        family = self.state.family
        self.method.hold(family, fixed)
        self.rows = freeze.group_rows(family)
        self.turns = {}  # what moves is shared out among the ranks anew
        self.moving = {
            name: [parameter for parameter in net.parameters() if parameter.requires_grad]
            for name, net in family.nets.items()
        }
        if self.world.leader:
            logger.info("what moves at %g kimg:\n%s", self.state.images_seen / 1000, freeze.summary(self.rows))

    def validate(self, validation: Validation) -> dict[str, float]:
        """Score the averaged nets and return the point of the curves; the best ones so far are kept in the state."""
        self.fit()
        value = validation.score(self.state.family, self.state.ema.nets)
        self.state.score(value)
        self.add_frame(validation)
        return {VALIDATION_CURVE: value}

    def add_frame(self, validation: Validation) -> None:
        """Keep what the nets have just drawn."""
        if self.film is not None and validation.frame is not None:
            self.film.add(validation.frame, self.state.images_seen)

    def report(self, work_dir: Path, scores: dict[str, float]) -> None:
        """Log the means since the last report, and `scores`; raise DivergenceError when all is lost."""
        state = self.state
        means = state.losses.means()
        check_finite(means, state.images_seen)
        state.losses.reset()
        self.tracker.log(means | state.augment_chance.curve() | scores, state.images_seen)
        check_watched(means, state.family.watched, state.images_seen)
        self.check_weights()  # the losses are of before the step's end
        self.good.load_state_dict(state.ema.nets.state_dict())
        self.good_images_seen = state.images_seen
        if self.config.on_divergence == "rollback":
            checkpoint = state.checkpoint()
            if self.world.leader:
                self.flush_appended(work_dir)
                write_checkpoint(work_dir / GOOD_FOLDER, checkpoint, kept=1)

    @property
    def weights_are_finite(self) -> bool:
        """Whether no weight, latest or averaged, is lost."""
        try:
            self.check_weights()
        except DivergenceError:
            return False
        return True

    def check_weights(self) -> None:
        """Raise DivergenceError when a weight, latest or averaged, is not finite."""
        state = self.state
        for nets in (state.ema.nets, state.family.nets, state.method.nets):
            check_weights(nets.state_dict(), state.images_seen)

    def fit(self) -> None:
        """Fit the nets that no gradient moves to the others: to be done before samples are drawn from the averages."""
        if self.state.family.fitted_nets:
            self.state.fit(self._some_images())

    def _some_images(self) -> Iterator[torch.Tensor]:
        """Return training images, evenly spread, always the same ones, in batches [N C H W] in [-1, 1].

        Where the nets are shown mirror images, these too.
        """
        n = len(self.images)
        places = np.linspace(0, n - 1, min(n, MOST_FITTED_IMAGES)).round().astype(np.int64)
        for first in range(0, len(places), FITTED_AT_ONCE):
            packed = self.images.batch(places[first : first + FITTED_AT_ONCE]).to(self.world.device)
            yield to_model_range(packed, self.state.family.memory_format)
            if self.config.mirror:
                yield to_model_range(packed.flip(3), self.state.family.memory_format)

    def show_samples(self) -> None:
        """Draw from the averaged nets, from the same seeds each time."""
        started_s = time.perf_counter()
        self.fit()
        drawn = sample(self.state.family, self.state.ema.nets, SAMPLES_SHOWN, self.config.seed)
        self.tracker.picture("samples", to_uint8(drawn).numpy(), self.state.images_seen)
        self.pace.samples_s += time.perf_counter() - started_s

    def save(self, work_dir: Path) -> float:
        """Write a checkpoint, unless a loss was not finite; return the seconds it took. All ranks have to ask."""
        started_s = time.perf_counter()
        checkpoint = self.state.checkpoint()
        check_finite(self.state.losses.means(), self.state.images_seen)
        if self.world.leader:
            self.flush_appended(work_dir)
            write_checkpoint(work_dir, checkpoint)
        took_s = time.perf_counter() - started_s
        self.pace.checkpoint_s += took_s
        return took_s

    def flush_appended(self, work_dir: Path) -> None:
        """Wait for the disk to have the curves and frames so far: a run that goes on does not write them again."""
        for name in (CURVES_FILE, FRAMES_FILE):
            with writing(f"The file {work_dir / name}"):
                flush(work_dir / name)

    @property
    def at_end(self) -> bool:
        """Whether the budget is used up, or the patience with validations that bring no improvement."""
        state, config = self.state, self.config
        return state.images_seen >= config.total_images or state.selection.exhausted(config.patience)

    def crossed(self, every_kimg: float) -> bool:
        """Return whether the step just taken passed a multiple of `every_kimg`, or was the last."""
        every_images, seen = max(round(every_kimg * 1000), 1), self.state.images_seen
        passed = seen // every_images > (seen - self.config.batch) // every_images
        return passed or self.at_end

    def result(self, resumed_from: int | None) -> TrainResult:
        """Return how the run went."""
        pace, seconds = self.pace, max(self.pace.seconds, 1e-9)
        moved, fixed = freeze.totals(self.rows)
        return TrainResult(
            images_seen=self.state.images_seen,
            seconds=seconds,
            images_per_s=pace.images_per_s,
            data_wait_share=self.feed.seconds / seconds,
            checkpoint_share=pace.checkpoint_s / seconds,
            samples_share=pace.samples_s / seconds,
            report_share=pace.report_s / seconds,
            validation_share=pace.validation_s / seconds,
            layer_groups=self.rows_at_start,
            moved_parameters=moved,
            fixed_parameters=fixed,
            precision=self.precision,
            processes=self.world.size,
            micro_batch=self.micro_batch,
            rollbacks=self.state.rollbacks,
            resumed_from=resumed_from,
            **self.state.selection.result(),
        )
