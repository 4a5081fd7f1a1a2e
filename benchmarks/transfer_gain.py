"""What is the transfer worth? Every family at its default budgets on the digits, several seeds, mean and spread.

    python benchmarks/transfer_gain.py                            all families, seeds 1 2 3 (hours on two cores)
    python benchmarks/transfer_gain.py --families dcgan --seeds 1

Runs the very stages of the pipeline (source: 5,000 MNIST digits; target: 100 UCI digits, 256 others to validate and
1,441 to test) through the store, so that a second call only reads; prints a Markdown table and writes
results/transfer_gain.json. The seed is that of the weights, the data order and the noise, in pretraining, fine-tuning
and baseline; the split and the samples' seed stay the same. Gain is KID from scratch / KID transferred; the spread is
the sample standard deviation.
"""

import argparse
import json
import logging
import platform
import statistics
from pathlib import Path
from typing import Any

import torch

from genxfer.artifacts.store import open_store
from genxfer.config import load_params
from genxfer.models.config import FAMILIES
from genxfer.pipeline import Context
from genxfer.stages import STAGES, run_stage
from genxfer.terminal import show_progress

RESULTS = Path(__file__).parent / "results" / "transfer_gain.json"
MEASURED_STAGES = [name for name in STAGES if name != "register"]


def measure(family: str, seed: int, threads: int) -> dict[str, Any]:
    """Return the row of one family and one seed, from the store or by running the stages."""
    shape = ["dataset.resolution_px=28"] if family.startswith("mlp") else []
    overrides = [
        f"model.family={family}",
        f"pretrain.seed={seed}",
        f"finetune.seed={seed}",
        f"compute.threads={threads}",
        *shape,
    ]
    params = load_params("params.yaml", overrides)
    context = Context(open_store())
    records = {name: run_stage(name, params, context).record for name in MEASURED_STAGES}
    numbers = json.loads(context.store.read(records["evaluate"].outputs["metrics.json"]).read_text())
    kept = ("kid", "kid_scratch", "kid_source", "fid", "fid_scratch", "fid_source", "transfer_gain")
    return {
        "family": family,
        "seed": seed,
        "pretrain_kimg": params.pretraining().kimg,
        "finetune_kimg": params.finetuning().kimg,
        "freeze": params.freeze_policy().groups,
        "n_samples": numbers["n_samples"],
        "n_reference": numbers["n_reference"],
        "precision": records["pretrain"].facts["precision"],
        "seconds": {name: round(record.seconds, 1) for name, record in records.items()},
        **{name: numbers[name] for name in kept},
    }


def table(rows: list[dict[str, Any]]) -> str:
    """Return the Markdown table of all families: mean ± spread over the seeds."""
    lines = [
        "| family | kimg source + target | KID source only | KID from scratch | KID transferred | transfer gain |",
        "|---|---:|---:|---:|---:|---:|",
    ]
    for family in dict.fromkeys(row["family"] for row in rows):
        of_family = [row for row in rows if row["family"] == family]
        cells = [_cell(of_family, name) for name in ("kid_source", "kid_scratch", "kid")]
        budget = f"{of_family[0]['pretrain_kimg']:g} + {of_family[0]['finetune_kimg']:g}"
        lines.append(f"| `{family}` | {budget} | {' | '.join(cells)} | **{_cell(of_family, 'transfer_gain', 2)}** |")
    return "\n".join(lines)


def _cell(rows: list[dict[str, Any]], name: str, digits: int = 3) -> str:
    values = [row[name] for row in rows if row[name] is not None]
    if not values:
        return "none"
    spread = f" ± {statistics.stdev(values):.{digits}f}" if len(values) > 1 else ""
    return f"{statistics.mean(values):.{digits}f}{spread}"


def main() -> None:
    """Measure, print the table, write the rows."""
    parser = argparse.ArgumentParser(description="Measure the transfer gain of every family.")
    parser.add_argument("--families", nargs="+", choices=list(FAMILIES), default=list(FAMILIES))
    parser.add_argument("--seeds", nargs="+", type=int, default=[1, 2, 3])
    parser.add_argument("--threads", type=int, default=1, help="of the CPU; two calls side by side use two cores best")
    parsed = parser.parse_args()
    show_progress()
    logging.getLogger("genxfer.training").setLevel(logging.WARNING)
    rows = [measure(family, seed, parsed.threads) for family in parsed.families for seed in parsed.seeds]
    print(table(rows))
    if parsed.families == list(FAMILIES):
        machine = {"processor": platform.machine(), "torch": torch.__version__, "threads": parsed.threads}
        RESULTS.parent.mkdir(exist_ok=True)
        RESULTS.write_text(json.dumps({"machine": machine, "rows": rows}, indent=1) + "\n")


if __name__ == "__main__":
    main()
