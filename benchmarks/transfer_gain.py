"""What is the transfer worth? Families, methods and numbers of target images, several seeds, mean and spread.

    python benchmarks/transfer_gain.py                      every family by its default method, 100 digits, seeds 1 2 3
    python benchmarks/transfer_gain.py --full --budget 60   digits and emoji, every method, 10, 100 and 1,000 images
    python benchmarks/transfer_gain.py --families dcgan --methods lora ewc --images 10 --seeds 1
    python benchmarks/transfer_gain.py --families flow --set finetune.kimg=8

Runs the very stages of the pipeline through the store, so a second call only reads, and a call that ended with its
budget (in minutes) goes on where it was. --full goes on elsewhere too: a row of its results counts, with the date it
has, as long as its cell is made by the same budgets and numbers, or until --afresh. Digits: 5,000 MNIST images to
those of UCI; emoji: Noto to Twemoji in colour, of all kinds, or the faces only (smileys: there are too few to train on
1,000), which emoji.py fetches. The seed is that of the weights, the data order and the noise, in pretraining,
fine-tuning and baseline; the split and the samples' seed stay the same. Gain is KID from scratch / KID transferred; the
spread is the sample standard deviation. Prints a Markdown table; the whole of the first two writes
results/transfer_gain.json or results/transfer_gain_full.json with every run, and --full draws docs/transfer_gain.png.
"""

import argparse
import datetime
import itertools
import json
import logging
import multiprocessing
import platform
import statistics
import time
from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ProcessPoolExecutor, wait
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import torch
from emoji import make_domains

from genxfer.artifacts.store import open_store
from genxfer.config import Params, load_params
from genxfer.errors import TrainingError
from genxfer.launch.lifeline import stop_with_parent
from genxfer.models.config import FAMILIES
from genxfer.pipeline import Context
from genxfer.stages import current_plan, run_stage
from genxfer.terminal import show_progress
from genxfer.transfer.config import fitting_methods

RESULTS = Path(__file__).parent / "results"
FIGURE = Path(__file__).parents[1] / "docs" / "transfer_gain.png"
EMOJI = Path("data/emoji")
# What is not the default of params.yaml, by domain; flows need more images than digits do before emoji look like any.
_NOTO = ("dataset.channels=3", f"dataset.source={{kind: folder, path: {EMOJI}/noto}}")
DOMAINS: dict[str, tuple[str, ...]] = {
    "digits": (),
    # Three plain squares look the same in both.
    "emoji": (*_NOTO, f"dataset.target={{kind: folder, path: {EMOJI}/twemoji, n_train: 100}}", "dataset.max_shared=3"),
    "smileys": (*_NOTO, f"dataset.target={{kind: folder, path: {EMOJI}/smileys, n_train: 100}}"),
}
MOST_IMAGES = {"smileys": 100}
EMOJI_BUDGETS = {"flow": ["pretrain.kimg=100", "finetune.kimg=20", "finetune.lr=2e-3"]}
_PLACE = ("seed", "images", "domain", "family", "method")
FULL_FAMILIES = ("dcgan", "vae", "flow")  # the dense ones make 28 pixels only


@dataclass(frozen=True)
class Cell:
    """One fine-tuning that is measured, and what it is measured against."""

    seed: int
    images: int
    domain: str
    family: str
    method: str = "auto"
    overrides: tuple[str, ...] = ()  # beyond those of its domain and family

    @property
    def source(self) -> tuple[str, ...]:
        """What is pretrained on: the same for emoji of all kinds and for faces."""
        return DOMAINS[self.domain][: len(_NOTO)]

    def params(self) -> Params:
        """Return the parameters of the cell."""
        overrides = [*DOMAINS[self.domain], *(EMOJI_BUDGETS.get(self.family, []) if self.domain != "digits" else [])]
        overrides += ["dataset.resolution_px=28"] if self.family.startswith("mlp") else []
        overrides += [f"model.family={self.family}", f"finetune.method={self.method}"]
        overrides += [f"dataset.target.n_train={self.images}"]
        if self.domain == "digits":  # a folder for each number, as several are worked on at once
            overrides += [f"dataset.target.path=data/digits_{self.images}"]
        overrides += [f"{name}.seed={self.seed}" for name in ("pretrain", "finetune")]
        return load_params("params.yaml", [*overrides, *self.overrides])


def prepare(cell: Cell, stages: Sequence[str]) -> None:
    """Run what several cells share."""
    for name in stages:
        run_stage(name, cell.params(), Context(open_store()))


def measure(cell: Cell) -> dict[str, Any]:
    """Return the row of `cell`, from the store or by running its stages; one that diverged has no numbers."""
    params, context = cell.params(), Context(open_store())
    place = {name: value for name, value in asdict(cell).items() if name in _PLACE}
    row = place | {"method": params.method().method, "date": datetime.date.today().isoformat()}
    try:
        record = run_stage("finetune", params, context).record
    except TrainingError as error:
        return row | {"failed": str(error)}
    numbers = run_stage("evaluate", params, context).record.facts
    kept = ("kid", "kid_scratch", "kid_source", "transfer_gain", "memorization", "memorization_passed", "diversity")
    return row | {
        **settings(params),
        "precision": record.facts["precision"],
        "finetune_s": round(record.seconds, 1),
        **{name: numbers.get(name) for name in (*kept, "n_samples", "n_reference")},
    }


def settings(params: Params) -> dict[str, Any]:
    """Return what a row says of how it was made, beside its cell."""
    return {
        "pretrain_kimg": params.pretraining().kimg,
        "finetune_kimg": params.finetuning().kimg,
        "finetune_lr": params.finetuning().lr,
        "model": params.family.model_dump(mode="json"),
        "numbers": params.method().model_dump(mode="json"),
    }


def measured_before(cells: Iterable[Cell], document: dict[str, Any]) -> dict[Cell, dict[str, Any]]:
    """Return the rows of `cells` that an earlier call wrote, made by the settings of today; one that failed is none."""
    rows = {tuple(row[name] for name in _PLACE): {"date": document["date"]} | row for row in document["rows"]}
    before = {}
    for cell in cells:
        params = cell.params()
        row = rows.get(tuple(getattr(replace(cell, method=params.method().method), name) for name in _PLACE))
        if row and all(row.get(name) == value for name, value in settings(params).items()):
            before[cell] = row
    return before


def cells_of(parsed: argparse.Namespace) -> list[Cell]:
    """Return what is asked for, in the order of `_turn`: a budget cuts at the end."""
    cells = []
    for seed, images, domain, family in itertools.product(parsed.seeds, parsed.images, parsed.domains, parsed.families):
        if images > MOST_IMAGES.get(domain, images):
            continue
        cell = Cell(seed, images, domain, family, overrides=tuple(parsed.set))
        methods = parsed.methods
        if methods == ["all"]:
            params = cell.params()
            methods = [
                name for name in fitting_methods(params.family, params.dataset.resolution_px) if name != "freeze"
            ]
        cells += [replace(cell, method=method) for method in methods]
    return sorted(cells, key=_turn)


def _turn(cell: Cell) -> tuple[bool, bool, int]:
    """Return when a cell's turn is: first what `auto` chooses, of that 100 images, of these seed by seed."""
    chosen = replace(cell, method="auto").params().method().method
    return cell.method not in ("auto", chosen), cell.images != 100, cell.seed


@dataclass(frozen=True)
class Job:
    """What one process does at a time, once the jobs that `after` names are done."""

    call: Callable[..., Any]
    arguments: tuple[Any, ...]
    after: tuple[Any, ...] = ()


def jobs_of(cells: Iterable[Cell]) -> dict[Any, Job]:
    """Return the jobs of `cells` by name, in their order: what several cells share comes before the first of them."""
    jobs: dict[Any, Job] = {}
    for cell in cells:
        pretraining = ("pretraining", cell.seed, cell.source, cell.family)
        from_scratch = ("from scratch", cell.seed, cell.domain, cell.family, cell.images)
        jobs.setdefault(pretraining, Job(prepare, (cell, ("dataset_source", "pretrain"))))
        jobs.setdefault(from_scratch, Job(prepare, (cell, ("dataset_target", "baseline"))))
        jobs[cell] = Job(measure, (cell,), after=(pretraining, from_scratch))
    return jobs


def run(cells: Sequence[Cell], at_once: int, budget_s: float) -> list[dict[str, Any]]:
    """Return the rows of as many of `cells` as are done within the budget, `at_once` jobs side by side."""
    until = time.monotonic() + budget_s
    waiting, done = jobs_of(cells), dict[Any, Any]()
    running: dict[Future[Any], Any] = {}
    spawn = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(at_once, spawn, initializer=_quietly) as pool:
        while True:
            ready = [name for name, job in waiting.items() if done.keys() >= set(job.after)]
            for name in ready[: at_once - len(running)] if time.monotonic() < until else ():
                job = waiting.pop(name)
                running[pool.submit(job.call, *job.arguments)] = name
            if not running:
                break
            for future in wait(running, return_when=FIRST_COMPLETED).done:
                done[running.pop(future)] = future.result()
    return [done[cell] if cell in done else measure(cell) for cell in cells if cell in done or _is_done(cell)]


def _is_done(cell: Cell) -> bool:
    standing = current_plan(cell.params()).standing("evaluate")
    return standing.record is not None and standing.stale is None


def _quietly() -> None:
    stop_with_parent()
    show_progress()
    logging.getLogger("genxfer.training").setLevel(logging.WARNING)


def table(rows: Sequence[dict[str, Any]]) -> str:
    """Return the Markdown table of all cells, mean ± spread over the seeds; in bold the best that did not copy."""
    lines = [
        "| domain | images | family | method | seeds | KID source only | from scratch | transferred | gain | copies |",
        "|---|---:|---|---|---:|---:|---:|---:|---:|---|",
    ]
    for (domain, images, family), of_kind in _grouped(rows, "domain", "images", "family").items():
        by_method = _grouped(of_kind, "method")
        fair = {name: of for (name,), of in by_method.items() if _whole(of) and not _copied(of)}
        means = {name: statistics.mean(row["kid"] for row in of) for name, of in fair.items()}
        for (method,), of_method in sorted(by_method.items(), key=lambda item: means.get(item[0][0], float("inf"))):
            mark = "**" if method == min(means, key=means.__getitem__, default=None) else ""
            kids = " | ".join(_cell(of_method, name) for name in ("kid_source", "kid_scratch", "kid"))
            gain, copies = _cell(of_method, "transfer_gain", 2), _copies(of_method)
            lines.append(
                f"| {domain} | {images:,} | `{family}` | {mark}{method}{mark} | {len(of_method)} | {kids} | "
                f"{mark}{gain}{mark} | {copies} |"
            )
    return "\n".join(lines)


def _grouped(rows: Iterable[dict[str, Any]], *keys: str) -> dict[tuple[Any, ...], list[dict[str, Any]]]:
    groups: dict[tuple[Any, ...], list[dict[str, Any]]] = {}
    for row in rows:
        groups.setdefault(tuple(row[key] for key in keys), []).append(row)
    return groups


def _whole(rows: Sequence[dict[str, Any]]) -> bool:
    return all("failed" not in row for row in rows)


def _copied(rows: Sequence[dict[str, Any]]) -> bool:
    return any(row["memorization_passed"] is False for row in rows)


def _cell(rows: Sequence[dict[str, Any]], name: str, digits: int = 3) -> str:
    values = [row[name] for row in rows if row.get(name) is not None]
    if not values:
        return "none"
    spread = f" ± {statistics.stdev(values):.{digits}f}" if len(values) > 1 else ""
    failed = "" if _whole(rows) else f", {len(rows) - len(values)} diverged"
    return f"{statistics.mean(values):.{digits}f}{spread}{failed}"


def _copies(rows: Sequence[dict[str, Any]]) -> str:
    verdicts = [row["memorization_passed"] for row in rows if row.get("memorization_passed") is not None]
    return "" if not verdicts else f"{verdicts.count(False)} of {len(verdicts)}"


def draw(rows: Sequence[dict[str, Any]], path: Path) -> None:
    """Draw KID over the number of target images, a panel for each domain and family, a line for each model."""
    from matplotlib.figure import Figure

    panels = _grouped([row for row in rows if "failed" not in row], "domain", "family")
    domains, families = (list(dict.fromkeys(place[i] for place in panels)) for i in range(2))
    methods = sorted({row["method"] for row in rows})
    styles = {name: {"color": f"C{i}", "label": name} for i, name in enumerate(methods)}
    yardsticks = {"from scratch": ("kid_scratch", "--"), "source as it was": ("kid_source", ":")}
    styles |= {name: {"color": "#1c1b19", "linestyle": line, "label": name} for name, (_, line) in yardsticks.items()}
    images = sorted({row["images"] for row in rows})
    size = (4.2 * max(len(families), 1) + 1.2, 3.4 * max(len(domains), 1))
    figure, shown = Figure(figsize=size, dpi=110, layout="constrained"), {}
    for (domain, family), of_panel in panels.items():
        number = domains.index(domain) * len(families) + families.index(family) + 1
        axes = figure.add_subplot(len(domains), len(families), number)
        lines = {name: of for (name,), of in _grouped(of_panel, "method").items()}
        of_one_seed = _grouped(of_panel, "seed", "images").values()  # with the same yardsticks, whatever the method
        lines |= {name: [{**row, "kid": row[kid]} for row, *_ in of_one_seed] for name, (kid, _) in yardsticks.items()}
        for name, of_line in lines.items():
            by_images = sorted(_grouped(of_line, "images").items())
            means = [statistics.mean(row["kid"] for row in of) for _, of in by_images]
            [shown[name]] = axes.plot([n for (n,), _ in by_images], means, marker="o", markersize=4, **styles[name])
        axes.set(title=f"{family}, {domain}", xscale="log", xlabel="target images", ylabel="KID", ylim=(0, None))
        axes.set_xticks(images, [f"{n:,}" for n in images])
        axes.minorticks_off()
        axes.spines[["top", "right"]].set_visible(False)
    order = [shown[name] for name in (*yardsticks, *methods) if name in shown]
    figure.legend(handles=order, loc="outside right upper", frameon=False)
    figure.savefig(path, metadata={"Software": None})


def main() -> None:
    """Measure, print the table, write the rows."""
    parser = argparse.ArgumentParser(description="Measure what the transfer is worth.")
    parser.add_argument("--full", action="store_true", help="digits and emoji, every method, 10, 100 and 1,000 images")
    parser.add_argument("--domains", nargs="+", choices=list(DOMAINS))
    parser.add_argument("--families", nargs="+", choices=list(FAMILIES))
    parser.add_argument("--methods", nargs="+", help="`all`: every one that is for the family")
    parser.add_argument("--images", nargs="+", type=int, help="target images to train on")
    parser.add_argument("--seeds", nargs="+", type=int, default=[1, 2, 3])
    parser.add_argument("--set", nargs="+", default=[], metavar="KEY=VALUE", help="other parameters, of every run")
    parser.add_argument("--at-once", type=int, default=2, help="processes side by side, of one thread each")
    parser.add_argument("--afresh", action="store_true", help="measure again what earlier calls of --full have written")
    parser.add_argument("--budget", type=float, default=float("inf"), help="minutes after which nothing more is begun")
    parsed = parser.parse_args()
    chosen = (parsed.domains, parsed.families, parsed.methods, parsed.images, parsed.set)
    whole = not any(chosen) and parsed.seeds == [1, 2, 3]
    parsed.domains = parsed.domains or (list(DOMAINS) if parsed.full else ["digits"])
    parsed.families = parsed.families or (list(FULL_FAMILIES) if parsed.full else list(FAMILIES))
    parsed.methods = parsed.methods or (["all"] if parsed.full else ["auto"])
    parsed.images = parsed.images or ([100, 10, 1000] if parsed.full else [100])
    if {"emoji", "smileys"} & set(parsed.domains):
        make_domains(EMOJI)
    cells = cells_of(parsed)
    results = RESULTS / ("transfer_gain_full.json" if parsed.full else "transfer_gain.json")
    goes_on = parsed.full and whole and results.exists() and not parsed.afresh
    before = measured_before(cells, json.loads(results.read_text())) if goes_on else {}
    new = run([cell for cell in cells if cell not in before], parsed.at_once, parsed.budget * 60)
    asked = {"images": parsed.images, "domain": parsed.domains, "family": parsed.families, "seed": parsed.seeds}
    rows = sorted([*before.values(), *new], key=lambda row: [of.index(row[name]) for name, of in asked.items()])
    print(table(rows))
    if len(rows) < len(cells):
        print(f"\n{len(rows)} of {len(cells)} runs fitted into the budget; the same command goes on from there.")
    if whole:
        machine = {"processor": platform.machine(), "torch": torch.__version__, "threads": 1, "at_once": parsed.at_once}
        document = {"date": datetime.date.today().isoformat(), "machine": machine, "rows": rows}
        results.write_text(json.dumps(document, indent=1) + "\n")
        if parsed.full:
            draw(rows, FIGURE)


if __name__ == "__main__":
    main()
