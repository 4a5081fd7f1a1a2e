"""How fast does the engine train? Images per second, beside the loop that tutorials write for the same nets.

    python benchmarks/training.py                                     all families and sizes (eight minutes)
    python benchmarks/training.py --families dcgan --resolutions 32

Both sides have the same nets, losses, augmentation, batch, learning rate and threads, and the same 4,096 smooth
coloured images made from a seed. The reference computes in fp32 in the default memory layout, reads PNG files through
torchvision's ImageFolder and a DataLoader with two workers, steps torch.optim.Adam, averages the weights in a loop over
them and takes `.item()` of every loss. The engine is `genxfer.training.engine.train` on packed images, with the
precision that `auto` stands for. Its checkpoints and sample pictures, which it holds to a few per cent of the time, are
off: the reference has none.

The two take turns in one process, block by block: when the engine reports progress after `--block-s` seconds, a block
of the reference follows. The first pair is the warm-up; the ratio is the median of the other pairs' ratios. Prints
Markdown tables and, when everything was measured, writes results/training.json.
"""

import argparse
import copy
import json
import platform
import statistics
import tempfile
import time
from collections.abc import Callable, Generator
from contextlib import ExitStack, suppress
from functools import partial
from pathlib import Path
from typing import Any
from unittest.mock import patch

import numpy as np
import torch
from PIL import Image
from torch import Tensor
from torchvision import transforms
from torchvision.datasets import ImageFolder

from genxfer.data.augment import augment
from genxfer.data.dataset import PackedImages
from genxfer.models.config import RECOMMENDED, family_config
from genxfer.models.family import Family, ImageShape, Step, build_family
from genxfer.noise import Noise
from genxfer.training.adam import Adam
from genxfer.training.config import ComputeConfig, TrainConfig
from genxfer.training.device import training_device
from genxfer.training.ema import EMA, ema_decay
from genxfer.training.engine import train
from genxfer.training.feed import Feed
from genxfer.training.precision import resolve_precision
from genxfer.training.tracker import NullTracker

RESULTS = Path(__file__).parent / "results" / "training.json"
MEASURED = {"dcgan": (32, 64), "vae": (32, 64), "flow": (32,)}  # resolutions in pixels
IMAGES = 4096
LR, EMA_KIMG = 1e-5, 5.0  # so slow that no discriminator saturates on these images, which would end the run


class Enough(Exception):  # noqa: N818
    """All blocks are measured."""


class Parts:
    """Seconds of a step by part: data, each phase's forward and backward, optimizer, average."""

    def __init__(self) -> None:
        self.seconds: dict[str, float] = {}
        self.phase = ""

    def timed(self, name: str, function: Callable[..., Any]) -> Callable[..., Any]:
        """Return `function`, its time added to the part `name`, or to the present phase where that is empty."""

        def measured(*arguments: Any, **keys: Any) -> Any:
            started_s = time.perf_counter()
            result = function(*arguments, **keys)
            part = name or self.phase
            self.seconds[part] = self.seconds.get(part, 0.0) + time.perf_counter() - started_s
            return result

        return measured

    def loss_of(self, family: Family) -> Callable[..., dict[str, Tensor]]:
        """Return `family.loss`, timed; the backward pass that follows is counted to the same phase."""
        measured = self.timed("", family.loss)

        def loss(phase: str, real: Tensor, step: Step) -> dict[str, Tensor]:
            self.phase = phase
            terms: dict[str, Tensor] = measured(phase, real, step)
            return terms

        return loss

    def per_step_ms(self, steps: float, seconds: float) -> dict[str, float]:
        """Return milliseconds by part, and as `other` what is left of `seconds`."""
        whole = self.seconds | {"other": seconds - sum(self.seconds.values())}
        return {name: round(1000 * value / steps, 2) for name, value in whole.items()}


class Side:
    """The blocks of one side: images and seconds of each, the warm-up left out, and the parts of their steps."""

    def __init__(self) -> None:
        self.parts = Parts()
        self.blocks: list[tuple[int, float]] = []

    def rates(self) -> list[float]:
        """Return the images per second of each block."""
        return [images / seconds for images, seconds in self.blocks]

    def step_ms(self, batch: int) -> dict[str, float]:
        """Return the milliseconds of a step by part."""
        images, seconds = (sum(column) for column in zip(*self.blocks, strict=True))
        return self.parts.per_step_ms(images / batch, seconds)

    def forget(self) -> None:
        """Start anew: what came before was the warm-up."""
        self.parts.seconds.clear()
        self.blocks.clear()


class Reference(Side):
    """The tutorials' loop, for as many blocks as are asked for."""

    def __init__(self, family: Family, folder: Path, config: TrainConfig) -> None:
        super().__init__()
        self.family, self.config, self.device = family, config, training_device()
        family.nets.to(self.device)
        self.averaged = {name: copy.deepcopy(family.nets[name]) for name in family.sampling_nets}
        self.optimizers = {
            phase.name: torch.optim.Adam(
                [p for net in phase.nets for p in family.nets[net].parameters()], lr=config.lr, betas=phase.betas
            )
            for phase in family.phases
        }
        to_range = [transforms.ToTensor(), transforms.Normalize([0.5] * 3, [0.5] * 3)]
        self.loader = torch.utils.data.DataLoader(
            ImageFolder(str(folder), transforms.Compose(to_range)),
            batch_size=config.batch,
            shuffle=True,
            drop_last=True,
            num_workers=2,
            persistent_workers=True,  # tutorials start them anew each epoch; not counted against them
        )
        self.batches = self._batches()
        noise = Noise(torch.Generator(self.device).manual_seed(0))
        self.step_at = partial(Step, noise=noise, augment=partial(augment, policy=config.augment, noise=noise))
        self.images_seen = 0
        timed = self.parts.timed
        self.next_batch, self.loss = timed("data", self._next_batch), self.parts.loss_of(family)
        self.backward, self.move = timed("", self._backward), timed("optimizer", self._move)
        self.average = timed("average", self._average)

    def block(self, block_s: float) -> None:
        """Train for so many seconds."""
        started_s, before = time.perf_counter(), self.images_seen
        while time.perf_counter() < started_s + block_s:
            self._step()
        self.blocks.append((self.images_seen - before, time.perf_counter() - started_s))

    def close(self) -> None:
        """Let the loader's workers end before their folder does."""
        self.batches.close()
        del self.loader

    def _step(self) -> None:
        real = self.next_batch()
        step = self.step_at(index=self.images_seen // self.config.batch, images_seen=self.images_seen)
        for phase in self.family.phases:
            terms = self.loss(phase.name, real, step)
            self.backward(terms, phase.name)
            self.move(phase.name)
            for value in terms.values():
                value.item()
        self.images_seen += self.config.batch
        self.average()

    def _batches(self) -> Generator[Tensor, None, None]:
        while True:
            for real, _ in self.loader:
                yield real

    def _next_batch(self) -> Tensor:
        return next(self.batches).to(self.device)

    def _backward(self, terms: dict[str, Tensor], phase: str) -> None:
        self.optimizers[phase].zero_grad()
        # Not Tensor.backward, which is timed as the engine's.
        torch.autograd.backward(sum(value for name, value in terms.items() if not name.startswith("~")))

    def _move(self, phase: str) -> None:
        self.optimizers[phase].step()

    @torch.no_grad()
    def _average(self) -> None:
        decay = ema_decay(self.config.ema_kimg, self.images_seen, self.config.batch)
        for name, averaged in self.averaged.items():
            for average, latest in zip(
                averaged.state_dict().values(), self.family.nets[name].state_dict().values(), strict=True
            ):
                if average.is_floating_point():
                    average.mul_(decay).add_(latest, alpha=1 - decay)


class Turns(NullTracker):
    """The engine's tracker: after each block of the engine a block of the reference, until there are enough of both."""

    def __init__(self, engine: Side, reference: Reference, blocks: int, block_s: float) -> None:
        self.engine, self.reference = engine, reference
        self.blocks_left, self.block_s = blocks, block_s
        self._warm = False
        self._since = (0, time.perf_counter())

    def start(self, total_images: int, images_seen: int) -> None:
        """Begin the first block."""
        self._since = (images_seen, time.perf_counter())

    def progress(self, images_seen: int, images_per_s: float) -> None:
        """End the engine's block if it was long enough, run one of the reference, and begin the next."""
        began_images, began_s = self._since
        took_s = time.perf_counter() - began_s
        if took_s < self.block_s:
            return
        self.engine.blocks.append((images_seen - began_images, took_s))
        self.reference.block(self.block_s)
        if not self._warm:
            self._warm = True
            self.engine.forget()
            self.reference.forget()
        elif (blocks_left := self.blocks_left - 1) == 0:
            raise Enough
        else:
            self.blocks_left = blocks_left
        self._since = (images_seen, time.perf_counter())


def measure(name: str, resolution_px: int, batch: int, blocks: int, block_s: float, threads: int) -> dict[str, Any]:
    """Return the row of one family at one resolution."""
    torch.set_num_threads(threads)
    reset_peak_memory()
    config = TrainConfig(
        kimg=1e6,
        batch=batch,
        lr=LR,
        ema_kimg=EMA_KIMG,
        augment=RECOMMENDED[name].finetune_augment,
        samples_every_kimg=1e6,
    )
    shape = ImageShape(3, resolution_px)
    with tempfile.TemporaryDirectory() as folder:
        images = write_images(Path(folder), resolution_px)
        engine, reference = Side(), Reference(build_family(family_config({"family": name}), shape), images, config)
        turns = Turns(engine, reference, blocks, block_s)
        with suppress(Enough):
            run_engine(build_family(family_config({"family": name}), shape), Path(folder), config, turns)
        reference.close()
    ratios = [fast / slow for fast, slow in zip(engine.rates(), reference.rates(), strict=True)]
    return {
        "family": name,
        "resolution_px": resolution_px,
        "batch": batch,
        "reference_images_per_s": round(statistics.median(reference.rates()), 1),
        "engine_images_per_s": round(statistics.median(engine.rates()), 1),
        "ratio": round(statistics.median(ratios), 2),
        "ratios": [round(ratio, 2) for ratio in ratios],
        "reference_step_ms": reference.step_ms(batch),
        "engine_step_ms": engine.step_ms(batch),
        "peak_memory_mb": round(peak_memory_mb()),
        "threads": threads,
        "precision": resolve_precision("auto"),
        "processor": platform.machine(),
        "torch": torch.__version__,
    }


def run_engine(family: Family, folder: Path, config: TrainConfig, turns: Turns) -> None:
    """Train until `turns` has had enough; the only place that knows the engine's inside."""
    parts = turns.engine.parts
    family.loss = parts.loss_of(family)  # type: ignore[method-assign]
    hooks = [
        (Feed, "batch", "data"),
        (torch.Tensor, "backward", ""),
        (Adam, "step", "optimizer"),
        (EMA, "update", "average"),
    ]
    with ExitStack() as stack:
        for owner, method, part in hooks:
            stack.enter_context(patch.object(owner, method, parts.timed(part, getattr(owner, method))))
        train(
            family,
            PackedImages(folder / "train.npy"),
            config,
            work_dir=folder / "work",
            out_dir=folder / "out",
            tracker=turns,
            compute=ComputeConfig(threads="auto", checkpoint_every_s=1e9),
        )


def write_images(folder: Path, resolution_px: int) -> Path:
    """Write train.npy, and the same images as PNG files; return the folder of the latter, one class for ImageFolder.

    Each is a random field of 4x4 colours, smoothly enlarged, with a little noise, as a camera's has.
    """
    rng = np.random.default_rng(0)
    coarse = rng.integers(0, 256, (IMAGES, 4, 4, 3), dtype=np.uint8)
    size = (resolution_px, resolution_px)
    smooth = [Image.fromarray(colours).resize(size, Image.Resampling.BICUBIC) for colours in coarse]
    noisy = np.stack(smooth) + rng.normal(0, 2, (IMAGES, resolution_px, resolution_px, 3))
    pixels = np.clip(noisy, 0, 255).astype(np.uint8)
    np.save(folder / "train.npy", pixels.transpose(0, 3, 1, 2).copy())
    files = folder / "png" / "all"
    files.mkdir(parents=True)
    for index, image in enumerate(pixels):
        Image.fromarray(image).save(files / f"{index:04d}.png")
    return files.parent


def reset_peak_memory() -> None:
    """Let the peak of this process' memory start from what it has now."""
    Path("/proc/self/clear_refs").write_text("5")


def peak_memory_mb() -> float:
    """Return the peak of this process' memory, of both sides together; the loader's workers are not in it."""
    status = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) for line in status if line.startswith("VmHWM")) / 1024


def table(rows: list[dict[str, Any]]) -> str:
    """Return the Markdown tables: the speeds, and where the time of a step goes."""
    lines = [
        "| family | px | batch | reference images/s | engine images/s | ratio | peak MB | threads |",
        "|---|---:|---:|---:|---:|---:|---:|---:|",
    ]
    for row in rows:
        speeds = f"{row['reference_images_per_s']:,.0f} | {row['engine_images_per_s']:,.0f} | **{row['ratio']:.2f}**"
        shape = f"{row['resolution_px']} | {row['batch']}"
        lines.append(f"| `{row['family']}` | {shape} | {speeds} | {row['peak_memory_mb']} | {row['threads']} |")
    lines += ["", "| family | px | side | milliseconds of a step |", "|---|---:|---|---|"]
    for row in rows:
        for side in ("reference", "engine"):
            parts = ", ".join(f"{part} {value:.1f}" for part, value in row[f"{side}_step_ms"].items())
            lines.append(f"| `{row['family']}` | {row['resolution_px']} | {side} | {parts} |")
    return "\n".join(lines)


def parser(description: str, blocks: int, block_s: float) -> argparse.ArgumentParser:
    """Return what both benchmarks of training ask on the command line."""
    parser = argparse.ArgumentParser(description=description)
    parser.add_argument("--families", nargs="+", choices=list(MEASURED), default=list(MEASURED))
    parser.add_argument("--resolutions", nargs="+", type=int, choices=[32, 64], default=[32, 64])
    parser.add_argument("--batch", type=int, default=64)
    parser.add_argument("--blocks", type=int, default=blocks, help="counted blocks of each side")
    parser.add_argument("--block-s", type=float, default=block_s, help="seconds of a block")
    return parser


def measure_all(parsed: argparse.Namespace, row: Callable[[str, int], dict[str, Any]], results: Path) -> list[Any]:
    """Return the row of each family and resolution asked for; write them to `results` when that is all there are."""
    every = [(name, size_px) for name, sizes in MEASURED.items() for size_px in sizes]
    pairs = [(name, size_px) for name, size_px in every if name in parsed.families and size_px in parsed.resolutions]
    rows = []
    for name, size_px in pairs:
        rows.append(row(name, size_px))
        print(json.dumps(rows[-1]), flush=True)
    if pairs == every:
        results.parent.mkdir(exist_ok=True)
        results.write_text(json.dumps(rows, indent=1) + "\n")
    return rows


def main() -> None:
    """Measure, write the rows, print the tables."""
    asked = parser("Measure the speed of training beside a plain loop.", blocks=7, block_s=5.0)
    asked.add_argument("--threads", type=int, default=torch.get_num_threads(), help="of both sides; torch's default")
    parsed = asked.parse_args()
    numbers = (parsed.batch, parsed.blocks, parsed.block_s, parsed.threads)
    print(table(measure_all(parsed, lambda name, size_px: measure(name, size_px, *numbers), RESULTS)))


if __name__ == "__main__":
    main()
