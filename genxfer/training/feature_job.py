"""Features of sets of images as data, so that they can be taken in this process or by others (`launch`) as JSON.

Between the stage evaluate, which wants them, and the extractor. A set is packed images or samples of a published model,
taken in blocks of whole batches, of the extractor's as of drawing: every batch is the one that a single process would
compute, so the bits are the same, whoever takes a block. A block becomes a file as soon as it is done: memory holds no
more than one, and the next attempt does not take it again. Knows nothing of metrics or stages.
"""

import functools
import math
import time
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, Literal, NamedTuple

import numpy as np
import torch
from pydantic import BaseModel, ConfigDict
from safetensors import SafetensorError
from safetensors.torch import load_file, save
from torch import Tensor

from genxfer.artifacts.atomic import write_atomic
from genxfer.data.dataset import PackedImages, to_uint8
from genxfer.errors import GenxferError, StoreError
from genxfer.metrics import load_extractor
from genxfer.models.family import SAMPLE_CHUNK, Family, sample_at
from genxfer.training.device import processor_threads
from genxfer.training.snapshot import family_of, load_snapshot

if TYPE_CHECKING:
    from genxfer.training.distributed import World
    from genxfer.training.tracker import Tracker

FOLDER = "features"  # in the work folder: a file for each block
_MOST_ROWS = 512  # of a block, unless one batch has more: 25 MB of samples at 128 px
_BLOCKS = 64  # into which so few images are divided that no process waits long for another's last block

# (places) -> uint8 [P C H W]
Images = Callable[[range], Tensor]


class PackedSet(BaseModel):
    """The first `n` images of a packed file."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    file: Path
    n: int

    def images(self, device: torch.device) -> Images:
        """Return what reads them; raises DataError when the file holds no packed images."""
        packed = PackedImages(self.file)
        return lambda places: packed.batch(np.asarray(places))


class SampleSet(BaseModel):
    """The first `n` samples of a snapshot from `seed`."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    snapshot: tuple[Path, Path]  # its two files
    n: int
    seed: int

    def images(self, device: torch.device) -> Images:
        """Return what draws them on `device`; raises TrainingError when the files are damaged."""
        family = family_of(load_snapshot(*self.snapshot))
        family.nets.to(device)
        return functools.partial(_draw, family, self.seed)


class Block(NamedTuple):
    """Some images of one set, by their places."""

    name: str
    places: range


class FeatureJob(BaseModel):
    """Which features are wanted, and where they are left."""

    model_config = ConfigDict(frozen=True, extra="forbid")
    error: ClassVar[type[GenxferError]] = GenxferError
    leads: ClassVar[bool] = True  # the processes are all on one host

    kind: Literal["evaluation"] = "evaluation"
    sets: dict[str, PackedSet | SampleSet]
    rows: int  # of a block, see `rows_of_block`
    extractor: str
    extractor_weights: str | None
    threads: Literal["auto"] | int
    work_dir: Path

    @property
    def blocks(self) -> list[Block]:
        """All blocks, set by set; whole ones save for the last of each set."""
        return [
            Block(name, range(first, min(first + self.rows, wanted.n)))
            for name, wanted in self.sets.items()
            for first in range(0, wanted.n, self.rows)
        ]

    def file(self, block: Block) -> Path:
        """Return where the features of `block` lie once they are taken."""
        return self.work_dir / FOLDER / f"{block.name}-{block.places.start}-{block.places.stop}.safetensors"

    def run(self, tracker: "Tracker", world: "World") -> dict[str, Any]:
        """Take the features of this rank's blocks, those that are not there, and return when all ranks have.

        Raises what loading the extractor and reading the images raise, StoreError when a block cannot be written.
        """
        extractor, blocks = load_extractor(self.extractor, str(world.device), self.extractor_weights), self.blocks
        images_of = functools.lru_cache(maxsize=1)(lambda name: self.sets[name].images(world.device))  # a model a time
        done, started_s = 0, time.perf_counter()
        tracker.start(sum(wanted.n for wanted in self.sets.values()), 0)
        try:
            with processor_threads(self.threads):
                for turn in range(0, len(blocks), world.size):
                    for block in blocks[turn : turn + world.size][world.rank : world.rank + 1]:
                        if not self.file(block).exists():
                            self._write(block, extractor.features(images_of(block.name)(block.places)))
                    world.gather([torch.zeros(1)])  # in step: ranks give up on one that is minutes behind
                    done += sum(len(block.places) for block in blocks[turn : turn + world.size])
                    tracker.progress(done, done / (time.perf_counter() - started_s))
        finally:
            tracker.close()
        return {"images": done, "processes": world.size}

    def features(self, name: str) -> Tensor:
        """Return the features [N D] of a whole set, once the job is done; raises StoreError where a file is damaged."""
        features = torch.empty(0)
        for block in (block for block in self.blocks if block.name == name):
            part = self._read(block)
            if block.places.start == 0:
                features = torch.empty(self.sets[name].n, part.shape[1])
            features[block.places.start : block.places.stop] = part
        return features

    def _read(self, block: Block) -> Tensor:
        try:
            return load_file(self.file(block))["features"]
        except (OSError, SafetensorError) as error:
            raise StoreError(f"{self.file(block)} cannot be read: {error}. Remove it and run again.") from error

    def _write(self, block: Block, features: Tensor) -> None:
        path = self.file(block)
        try:
            write_atomic(path, save({"features": features.contiguous()}))
        except OSError as error:
            raise StoreError(
                f"{path} cannot be written: {error}. Free some room there; the same command goes on from the features "
                "that are there."
            ) from error


def rows_of_block(images: int, batch: int, threads: int) -> int:
    """Return how many rows a block has: whole batches of `batch` and whole chunks of samples, one for each thread.

    More for many `images`, so that there are not too many files, and not so many that memory feels them.
    """
    unit = math.lcm(batch, SAMPLE_CHUNK)
    fewest, most = -(-batch * threads // unit), max(_MOST_ROWS // unit, 1)
    return unit * max(fewest, min(images // (_BLOCKS * unit), most))


def _draw(family: Family, seed: int, places: range) -> Tensor:
    """Return the samples at `places` as uint8 [P C H W], no more than a chunk of them in floats at a time."""
    chunks = (places[first : first + SAMPLE_CHUNK] for first in range(0, len(places), SAMPLE_CHUNK))
    return torch.cat([to_uint8(sample_at(family, family.nets, chunk, seed)) for chunk in chunks])
