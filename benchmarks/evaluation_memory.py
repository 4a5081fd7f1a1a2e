"""What an evaluation of many samples takes of memory, step by step, each in a process of its own.

    python benchmarks/evaluation_memory.py                      50,000 samples, 5,000 real images (a quarter of an hour)
    python benchmarks/evaluation_memory.py --samples 5000

First the features of the samples of a model, an untrained dcgan for 32 px, drawn and taken with lite0 as the stage
does; then collected and kept; then every metric, on random features of as many images. A row tells the most memory that
the step held above what the process held before it; where features are made, their own size is told beside it. Prints a
Markdown table and, for the default numbers, writes results/evaluation_memory.json.
"""

import argparse
import json
import multiprocessing
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch

from genxfer.metrics import METRICS, load_extractor, load_metric
from genxfer.metrics.cache import keep_features
from genxfer.metrics.sets import FeatureSets
from genxfer.models.config import family_config
from genxfer.models.family import ImageShape, build_family
from genxfer.training.distributed import World
from genxfer.training.feature_job import FeatureJob, SampleSet, rows_of_block
from genxfer.training.snapshot import DESCRIPTION_FILE, WEIGHTS_FILE, save_snapshot
from genxfer.training.tracker import NullTracker

RESULTS = Path(__file__).parent / "results" / "evaluation_memory.json"
SAMPLES, REAL, TRAIN = 50_000, 5_000, 1_000
FEATURES = 1280  # of lite0

Row = dict[str, Any]


def peak_mb() -> float:
    """Return the most memory that this process has held since the last `forget_peak`."""
    status = Path("/proc/self/status").read_text().splitlines()
    return int(next(line.split()[1] for line in status if line.startswith("VmHWM"))) / 1024


def forget_peak() -> None:
    """Let the peak be what is held now: proc(5), clear_refs."""
    Path("/proc/self/clear_refs").write_text("5")


def measured(step: str, features_mb: float, work: Callable[[], object]) -> Row:
    """Return the row of `work`."""
    forget_peak()
    before_mb, started_s = peak_mb(), time.perf_counter()
    work()
    return {
        "step": step,
        "features_mb": round(features_mb),
        "more_mb": round(peak_mb() - before_mb),
        "seconds": round(time.perf_counter() - started_s),
    }


def take(samples: int) -> list[Row]:
    """Return the rows of the features of one model's samples."""
    torch.set_num_threads(1)
    with tempfile.TemporaryDirectory() as place:
        folder, extractor = Path(place), load_extractor("lite0")
        family = build_family(family_config({"family": "dcgan"}), ImageShape(3, 32))
        save_snapshot(folder, family, images_seen=0, parent=None)

        def job(n: int) -> FeatureJob:
            images = SampleSet(snapshot=(folder / WEIGHTS_FILE, folder / DESCRIPTION_FILE), n=n, seed=0)
            rows = rows_of_block(samples, extractor.batch["cpu"], 1)
            return FeatureJob(
                sets={"samples": images},
                rows=rows,
                extractor="lite0",
                extractor_weights=None,
                threads=1,
                work_dir=folder / str(n),
            )

        job(64).run(NullTracker(), World())  # what is loaded once counts before
        whole = job(samples)
        taken = measured("draw, and take the features", 0, lambda: whole.run(NullTracker(), World()))
        features_mb = samples * FEATURES * 4 / 2**20
        keep = lambda: keep_features(folder, "0" * 64, extractor, whole.features("samples"))  # noqa: E731
        return [taken, measured("collect and keep them", features_mb, keep)]


def metric(name: str, samples: int, real: int) -> list[Row]:
    """Return the row of one metric."""
    torch.set_num_threads(1)
    generator = torch.Generator().manual_seed(0)
    work = load_metric(name)
    work(FeatureSets(*(torch.rand(n, 64, generator=generator) for n in (300, 300, 20))))
    sides = [torch.rand(n, FEATURES, generator=generator) for n in (real, samples, TRAIN)]
    return [measured(f"`{name}`", 0, lambda: work(FeatureSets(*sides)))]


def table(rows: list[Row]) -> str:
    """Return the Markdown table."""
    lines = ["| step | more memory, MB | of these the features | s |", "|---|---:|---:|---:|"]
    return "\n".join(
        [*lines, *(f"| {row['step']} | {row['more_mb']} | {row['features_mb']} | {row['seconds']} |" for row in rows)]
    )


def main() -> None:
    """Measure, print the table, write the rows."""
    parser = argparse.ArgumentParser(description="Measure the memory of an evaluation.")
    parser.add_argument("--samples", type=int, default=SAMPLES)
    parser.add_argument("--real", type=int, default=REAL)
    parsed = parser.parse_args()
    rows: list[Row] = []
    with multiprocessing.get_context("spawn").Pool(1, maxtasksperchild=1) as pool:
        rows += pool.apply(take, (parsed.samples,))
        print(rows, flush=True)
        for name in METRICS:
            rows += pool.apply(metric, (name, parsed.samples, parsed.real))
            print(rows[-1], flush=True)
    print(table(rows))
    if (parsed.samples, parsed.real) == (SAMPLES, REAL):
        RESULTS.write_text(json.dumps({"torch": torch.__version__, "rows": rows}, indent=2) + "\n")


if __name__ == "__main__":
    main()
