"""One training run from start to end: take over what an earlier attempt left, train, publish a snapshot.

One engine for every family, in one process or in several; progress is counted in images. The loop itself is `loop.py`.
Knows families by their phases, and nothing of stages.
"""

import logging
import shutil
import signal
from pathlib import Path

from genxfer.artifacts.atomic import write_atomic
from genxfer.data.dataset import PackedImages
from genxfer.errors import GenxferError, TrainingError
from genxfer.models.family import Family
from genxfer.training.checkpoint import Checkpoint, decode, encode, read_newest
from genxfer.training.config import ComputeConfig, TrainConfig, check_adaptive
from genxfer.training.device import keep_freed_memory, processor_threads
from genxfer.training.distributed import World
from genxfer.training.filmstrip import FilmFile, save_filmstrip
from genxfer.training.health import DivergenceError
from genxfer.training.interrupt import Interrupted, Interrupts
from genxfer.training.loop import CURVES_FILE, FRAMES_FILE, GOOD_FOLDER, Run
from genxfer.training.pace import TrainResult
from genxfer.training.precision import resolve_precision
from genxfer.training.snapshot import Snapshot, save_snapshot
from genxfer.training.start import start_from
from genxfer.training.state import TrainingState
from genxfer.training.tracker import CurveFile, NullTracker, Tracker, Trackers
from genxfer.training.validation import Validation
from genxfer.training.writing import writing
from genxfer.transfer.config import Full, MethodConfig, check_method
from genxfer.transfer.method import build_method

logger = logging.getLogger("genxfer.training")

FILMSTRIP_FILE = "filmstrip.safetensors"
LAST_GOOD_FOLDER = "last_good"  # in the work folder: the snapshot of a run that diverged
MOST_ROLLBACKS = 3


def train(
    family: Family,
    images: PackedImages,
    config: TrainConfig,
    *,
    work_dir: Path,
    out_dir: Path,
    tracker: Tracker,
    method: MethodConfig | None = None,
    init: Snapshot | None = None,
    min_taken_over: float = 1.0,
    compute: ComputeConfig | None = None,
    world: World | None = None,
    micro_batch: int | None = None,
    validation: Validation | None = None,
) -> TrainResult:
    """Train `family` on `images`; write snapshot.safetensors, snapshot.json, curves.csv and filmstrip.safetensors.

    Starts from what fits of `init`, at least the share `min_taken_over` of the model, or from the family's present
    weights; where `work_dir` holds a checkpoint, goes on from that. What is published, and on return is in the family's
    nets, are the averaged weights of the sampling nets and the others' latest ones: at the end or, with a `validation`,
    at the moment that scored best (without one, the filmstrip has no frame). The method may publish files of its own
    beside those. Every rank of `world` calls it alike; the leader alone reads and writes files and speaks to `tracker`.
    Gradients are those of at most `micro_batch` images at a time, summed.

    Raises TrainingError when `init` does not fit, DivergenceError when going on is pointless, StoreError when a file
    cannot be written, Interrupted (or what the former handler raises) after a signal, its checkpoint written, and
    torch.OutOfMemoryError.
    """
    method, compute, world = method or Full(), compute or ComputeConfig(), world or World()
    check_method(method, family.config, family.shape.resolution_px)
    check_adaptive(config, family.nets.keys(), "finetune")
    if method.family_config(family.config) != family.config:
        raise TrainingError(f"The method {method.method!r} trains other nets: build those of its family_config.")
    taken = None if init is None else start_from(family, init, method, min_taken_over, config.last_step)
    # The digest of the very weights that training starts from, where they are a snapshot's.
    published_start = init.digest if init is not None and taken is not None and taken.exact else None
    adaptation = build_method(method)
    with processor_threads(compute.threads):
        adaptation.prepare(family, config.seed, len(images), () if taken is None else taken.fresh)
    state = TrainingState(family, world, config, adaptation)
    resumed_from = _take_over(state, world, work_dir)
    film = FilmFile(work_dir / FRAMES_FILE, family.shape.channels, family.shape.resolution_px)
    trackers = Trackers([CurveFile(work_dir / CURVES_FILE), film, tracker] if world.leader else [NullTracker()])
    precision = resolve_precision(compute.precision)
    run = Run(state, images, config, precision, trackers, world, micro_batch, validation, film)
    keep_freed_memory()
    with processor_threads(compute.threads), Interrupts() as interrupts:
        try:
            trackers.start(config.total_images, state.images_seen)
            while True:
                try:
                    finished = run.loop(work_dir, compute.checkpoint_every_s, interrupts)
                    if finished and state.selection.best is None:  # the best moment has what was fitted to it
                        run.fit()
                    break
                except DivergenceError as error:
                    _roll_back(run, error, work_dir)
                    trackers.start(config.total_images, state.images_seen)
        except GenxferError:  # diverged, or no room for a checkpoint: another one would not help
            raise
        except BaseException:
            if run.between_steps and world.size == 1:
                run.save(work_dir)
            raise
        finally:
            trackers.close()
    if not finished:  # another rank was told to stop
        raise Interrupted(signal.SIGTERM)
    result = run.result(resumed_from)
    published_at_images = state.publish()
    adaptation.finish(family)
    if world.leader:
        logger.info("trained %s", result)
        files, strip = adaptation.files(family, published_start, published_at_images), film.strip()
        with writing(f"The result in {out_dir}"):
            save_snapshot(out_dir, family, images_seen=published_at_images, parent=init)
            for name, content in files.items():
                write_atomic(out_dir / name, content)
            shutil.copyfile(work_dir / CURVES_FILE, out_dir / CURVES_FILE)
            save_filmstrip(out_dir / FILMSTRIP_FILE, strip.thinned(published_at_images))
    return result


def _take_over(state: TrainingState, world: World, work_dir: Path) -> int | None:
    """Go on from the leader's newest checkpoint, if there is one; return where that stands."""
    found = _leaders_newest(world, work_dir)
    if found is None:
        return None
    state.restore(found)
    if world.leader:
        logger.info("going on from the checkpoint at %g kimg", state.images_seen / 1000)
    return found.images_seen


def _leaders_newest(world: World, folder: Path) -> Checkpoint | None:
    """Return the newest checkpoint that the leader finds in `folder`, on every rank: only its disk need have it."""
    found = read_newest(folder) if world.leader else None
    if world.size == 1:
        return found
    content = world.broadcast(encode(found) if found else None)
    return decode(content) if content else None


def _roll_back(run: Run, error: DivergenceError, work_dir: Path) -> None:
    """Return to the last report that found nothing wrong, or raise `error` with where its snapshot was kept."""
    state, world = run.state, run.world
    rollbacks = state.rollbacks
    if run.config.on_divergence == "rollback" and rollbacks < MOST_ROLLBACKS:
        good = _leaders_newest(world, work_dir / GOOD_FOLDER)
        if good is not None:
            state.restore(good)
            state.rollbacks = rollbacks + 1
            run.between_steps = True
            run.save(work_dir)  # replaces those that stand further on: the next attempt would go on from them
            if world.leader:
                logger.warning("%s Going back to %g kimg, at half the learning rate.", error, state.images_seen / 1000)
            return
    message = str(error)
    if world.leader and run.good_images_seen:
        state.ema.nets.load_state_dict(run.good.state_dict())
        state.publish_average()
        run.method.finish(state.family)
        folder = work_dir / LAST_GOOD_FOLDER
        with writing(f"The last good weights in {folder}"):
            save_snapshot(folder, state.family, images_seen=run.good_images_seen, parent=None)
        message += (
            f" The averaged weights of {run.good_images_seen / 1000:g} kimg, the last good ones, are kept in {folder}."
        )
    # No rank ends before they are kept: the first that does ends the others.
    told = world.broadcast(message.encode() if world.leader else None)
    raise DivergenceError(told.decode() if told is not None else message) from None
