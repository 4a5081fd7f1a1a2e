"""How fast does a model draw on one core? Images per second of torch and of ONNX Runtime, from the same weights.

    python benchmarks/sampling.py                                   dcgan, vae and flow at 32 px (two minutes)
    python benchmarks/sampling.py models:/genxfer@champion          a registered model, or a snapshot's folder
    python benchmarks/sampling.py --rounds 3

Without a model: nets of the default sizes for 32x32 RGB images, untrained, but no weight left at zero, as speed depends
on sizes alone. torch draws as the registered model does, in fp32; ONNX Runtime draws with the file of `genxfer export`.
Each has one thread; what is timed goes from noise in memory to float images in memory, one image at a time and 32 at a
time. The two take turns of a fifth of a second at least, after a first call that does not count; the speeds are the
medians of the rounds, the ratio is that of the two. "Differs" is the largest difference of any value in [-1, 1] over 33
images. Sizes: all of a snapshot, the discriminator or encoder among it, and the exported file, which has the nets that
draw. Prints a Markdown table and, for the default models and rounds, writes results/sampling.json.
"""

import argparse
import json
import os
import platform
import tempfile
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path
from typing import Any

import torch

from genxfer.models.config import family_config
from genxfer.models.family import Family, ImageShape, build_family
from genxfer.registry.onnx_export import compare_speed, max_difference, open_session, to_onnx
from genxfer.registry.pull import load_sampler
from genxfer.registry.sampler import SnapshotSampler
from genxfer.training.snapshot import save_snapshot

RESULTS = Path(__file__).parent / "results" / "sampling.json"
FAMILIES = ("dcgan", "vae", "flow")
SHAPE = ImageShape(3, 32)
BATCHES = (1, 32)
ROUNDS = 7

Row = dict[str, Any]


def untrained(name: str, folder: Path) -> str:
    """Leave a snapshot of the family `name` at its default sizes in `folder`, and return that."""
    family = build_family(family_config({"family": name}), SHAPE)
    fill_zeros(family)
    save_snapshot(folder, family, images_seen=0, parent=None)
    return str(folder)


@torch.no_grad()
def fill_zeros(family: Family) -> None:
    """Give small values to the weights that start at 0: where a layer answers 0, there is no difference to be seen."""
    generator = torch.Generator().manual_seed(0)
    for weights in family.nets.parameters():
        if not weights.any():
            weights.normal_(std=0.05, generator=generator)


def measure(sampler: SnapshotSampler, rounds: int) -> Row:
    """Return the row of one model."""
    data = to_onnx(sampler)
    session = open_session(data)
    shape = sampler.family.shape
    speeds = {str(n): compare_speed(sampler, session, n, rounds) for n in BATCHES}
    return {
        "family": sampler.family.config.family,
        "resolution_px": shape.resolution_px,
        "images_per_s": {n: {side: round(speed, 2) for side, speed in sides.items()} for n, sides in speeds.items()},
        "ratio": {n: round(sides["onnx"] / sides["torch"], 2) for n, sides in speeds.items()},
        "snapshot_mb": round(sampler_bytes(sampler) / 1e6, 2),
        "onnx_mb": round(len(data) / 1e6, 2),
        "max_difference": max(max_difference(sampler, session, n) for n in BATCHES),
    }


def sampler_bytes(sampler: SnapshotSampler) -> int:
    """Return how large the snapshot's weights are."""
    return sum(tensor.nbytes for tensor in sampler.family.nets.state_dict().values())


def print_table(rows: list[Row]) -> None:
    """Print the rows in Markdown."""
    columns = ("family", "px", "images at a time", "torch, images/s", "ONNX Runtime, images/s", "ratio", "differs")
    print(f"| {' | '.join((*columns, 'MB of weights, of ONNX'))} |")
    print("|---|---:|---:|---:|---:|---:|---:|---:|")
    for row in rows:
        for n, sides in row["images_per_s"].items():
            print(
                f"| `{row['family']}` | {row['resolution_px']} | {n} | {sides['torch']:.4g} | {sides['onnx']:.4g} "
                f"| {row['ratio'][n]:.2f} | {row['max_difference']:.1e} | {row['snapshot_mb']}, {row['onnx_mb']} |"
            )


def main() -> None:
    """Measure the models one after the other."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("models", nargs="*", metavar="MODEL")
    parser.add_argument("--rounds", type=int, default=ROUNDS)
    parsed = parser.parse_args()
    torch.set_num_threads(1)
    with tempfile.TemporaryDirectory() as temporary:
        models = parsed.models or [untrained(name, Path(temporary) / name) for name in FAMILIES]
        rows = [measure(load_sampler(model), parsed.rounds) for model in models]
    print_table(rows)
    if not parsed.models and parsed.rounds == ROUNDS:
        machine = {"processor": platform.machine(), "cores": os.cpu_count(), "load": round(os.getloadavg()[1], 1)}
        versions = {name: version(name) for name in ("torch", "onnxruntime", "onnx", "onnxscript")}
        about = {"date": datetime.now(UTC).date().isoformat(), "machine": machine, "versions": versions}
        RESULTS.write_text(json.dumps({**about, "rounds": ROUNDS, "rows": rows}, indent=2) + "\n")


if __name__ == "__main__":
    main()
