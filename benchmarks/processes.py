"""Two processes on two cores against one process on both: images per second, family by family.

    python benchmarks/processes.py                          all families and sizes (ten minutes)
    python benchmarks/processes.py --families dcgan --resolutions 32

One process computes with two threads; two processes, started as `compute.devices: 2` starts them, with one thread each
and half of every batch, whose gradients they exchange. Both are the engine's own runs on the same images, in turn; the
speed is the one that the engine reports, from its first step to its last, without the seconds that it takes to start
processes and to draw the picture at the end of a run. The ratio is the median of the pairs'. Prints a Markdown table
and, when everything was measured, writes results/processes.json.
"""

import statistics
import tempfile
from pathlib import Path
from typing import Any

import torch
from training import IMAGES, LR, measure_all, parser, write_images

from genxfer.launch.launcher import carry_out
from genxfer.models.config import RECOMMENDED, family_config
from genxfer.training.config import ComputeConfig, TrainConfig
from genxfer.training.job import TrainingJob
from genxfer.training.precision import resolve_precision
from genxfer.training.tracker import NullTracker
from genxfer.transfer.config import Full

RESULTS = Path(__file__).parent / "results" / "processes.json"


def images_per_s(name: str, resolution_px: int, batch: int, kimg: float, images: Path, processes: int) -> float:
    """Train for so many kimg in one or two processes and return the speed."""
    config = TrainConfig(
        kimg=kimg, batch=batch, lr=LR, augment=RECOMMENDED[name].finetune_augment, samples_every_kimg=1e6
    )
    with tempfile.TemporaryDirectory() as folder:
        work_dir, out_dir = Path(folder) / "work", Path(folder) / "out"
        work_dir.mkdir()
        out_dir.mkdir()
        job = TrainingJob(
            model=family_config({"family": name}).model_dump(mode="json"),
            channels=3,
            resolution_px=resolution_px,
            images=images,
            config=config,
            method=Full().model_dump(),
            compute=ComputeConfig(threads=2 // processes, checkpoint_every_s=1e9),
            work_dir=work_dir,
            out_dir=out_dir,
        )
        facts = carry_out(job, processes, NullTracker())
    assert facts is not None
    return float(facts["images_per_s"] / (1 - facts["samples_share"]))


def measure(name: str, resolution_px: int, batch: int, blocks: int, block_s: float) -> dict[str, Any]:
    """Return the row of one family at one resolution."""
    with tempfile.TemporaryDirectory() as folder:
        write_images(Path(folder), resolution_px)
        images = Path(folder) / "train.npy"
        rate = images_per_s(name, resolution_px, batch, IMAGES / 1000, images, 1)  # to know how many fill a block
        kimg = max(rate * block_s, batch) / 1000
        ones, twos = [], []
        for _ in range(blocks):
            ones.append(images_per_s(name, resolution_px, batch, kimg, images, 1))
            twos.append(images_per_s(name, resolution_px, batch, kimg, images, 2))
    ratios = [two / one for one, two in zip(ones, twos, strict=True)]
    return {
        "family": name,
        "resolution_px": resolution_px,
        "batch": batch,
        "one_process_images_per_s": round(statistics.median(ones), 1),
        "two_processes_images_per_s": round(statistics.median(twos), 1),
        "ratio": round(statistics.median(ratios), 2),
        "ratios": [round(ratio, 2) for ratio in ratios],
        "precision": resolve_precision("auto"),
        "torch": torch.__version__,
    }


def table(rows: list[dict[str, Any]]) -> str:
    """Return the Markdown table."""
    lines = [
        "| family | px | batch | one process, images/s | two, images/s | ratio |",
        "|---|---:|---:|---:|---:|---:|",
    ]
    for row in rows:
        one, two = row["one_process_images_per_s"], row["two_processes_images_per_s"]
        shape = f"`{row['family']}` | {row['resolution_px']} | {row['batch']}"
        lines.append(f"| {shape} | {one:,.0f} | {two:,.0f} | **{row['ratio']:.2f}** |")
    return "\n".join(lines)


def main() -> None:
    """Measure, write the rows, print the table."""
    parsed = parser("Measure two processes against one on two cores.", blocks=5, block_s=6.0).parse_args()
    numbers = (parsed.batch, parsed.blocks, parsed.block_s)
    print(table(measure_all(parsed, lambda name, size_px: measure(name, size_px, *numbers), RESULTS)))


if __name__ == "__main__":
    main()
