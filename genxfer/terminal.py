"""What the command line shows: log lines and progress on stderr, tables on stdout. Decides nothing.

Tables go to stdout because they are the answer of `plan`, `explain` and `run`; with --json nothing else may be there.
"""

import logging
import os
import sys
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from rich.console import Console
from rich.logging import RichHandler
from rich.markup import escape
from rich.table import Table

from genxfer.artifacts.fingerprint import Change
from genxfer.metrics import MEANINGS, SCORED_MODELS
from genxfer.metrics.caution import warnings
from genxfer.planning import Explanation, Forecast

if TYPE_CHECKING:
    from genxfer.registry.onnx_export import Exported

SHOWN_CHANGES = 12
PIPE_WIDTH = 10_000  # characters of a line that a program reads: no table is as wide


def show_progress() -> None:
    """Send the library's log to stderr: styled on a terminal, one plain line each elsewhere."""
    handler: logging.Handler
    if sys.stderr.isatty():
        handler = RichHandler(console=Console(stderr=True), show_path=False, log_time_format="%H:%M:%S")
    else:
        handler = logging.StreamHandler(sys.stderr)
        handler.setFormatter(logging.Formatter("%(asctime)s %(message)s", "%H:%M:%S"))
    logger = logging.getLogger("genxfer")
    logger.addHandler(handler)
    logger.setLevel(logging.INFO)


def seconds_text(seconds: float | None) -> str:
    """Return 3.2 s, 1 min 40 s, 2 h 05 min; "unknown" for None."""
    if seconds is None:
        return "unknown"
    if seconds < 60:
        return f"{seconds:.1f} s"
    minutes, rest_s = divmod(round(seconds), 60)
    hours, minutes_left = divmod(minutes, 60)
    return f"{hours} h {minutes_left:02} min" if hours else f"{minutes} min {rest_s:02} s"


def print_forecast(forecasts: list[Forecast]) -> None:
    """Print the table of `genxfer plan`."""
    table = Table("stage", "", "expected", "why", "fingerprint", box=None, pad_edge=False)
    for forecast in forecasts:
        state = "[green]cached[/]" if forecast.cached else "[yellow]runs[/]"
        expected = "" if forecast.cached else seconds_text(forecast.expected_s)
        table.add_row(forecast.stage, state, expected, escape(forecast.reason), (forecast.fingerprint or "")[:12])
    console = _Output()
    console.print(table)
    known = [forecast.expected_s for forecast in forecasts if forecast.expected_s is not None]
    unknown = len(forecasts) - len(known)
    note = f", and {unknown} stages of unknown length" if unknown else ""
    console.print(f"\nExpected in all: {seconds_text(sum(known))}{note}.")


def print_explanation(explanation: Explanation) -> None:
    """Print what changed since the last run of a stage, then the same, once each, for the stages that it waits for."""
    console = _Output()
    waiting, shown = [explanation], set()
    while waiting:
        current = waiting.pop(0)
        waiting += current.upstream
        if current.stage in shown:
            continue
        shown.add(current.stage)
        console.print(f"[bold]{current.stage}[/] {escape(current.standing)}", highlight=False)
        for change in current.changes[:SHOWN_CHANGES]:
            console.print(f"  {change.kind} {change.name}: {_old_new(change)}", markup=False, highlight=False)
        if len(current.changes) > SHOWN_CHANGES:
            console.print(f"  ... and {len(current.changes) - SHOWN_CHANGES} more")


def _old_new(change: Change) -> str:
    if change.kind in ("input", "source file"):  # digests
        return f"{str(change.old)[:12]} -> {str(change.new)[:12]}"
    return f"{change.old} -> {change.new}"


def print_summary(summary: Mapping[str, Any]) -> None:
    """Print the short table that ends a run."""
    console = _Output()
    stages = Table("stage", "", "seconds", box=None, pad_edge=False)
    stages.columns[2].justify = "right"
    for name, stage in summary["stages"].items():
        colour = "green" if stage["state"] == "cached" else "yellow"
        stages.add_row(name, f"[{colour}]{stage['state']}[/]", f"{stage['seconds']:.1f}")
    console.print(stages)
    metrics, model = summary["metrics"], summary["model"]
    scores = Table("model", "KID", "FID", box=None, pad_edge=False)
    for column in scores.columns[1:]:
        column.justify = "right"
    for label, suffix in SCORED_MODELS.items():
        if metrics.get(f"kid{suffix}") is not None:
            fid = metrics.get(f"fid{suffix}")
            scores.add_row(label, f"{metrics[f'kid{suffix}']:.4f}", "" if fid is None else f"{fid:.1f}")
    console.print()
    console.print(scores)
    console.print()
    if metrics.get("transfer_gain") is not None:
        gain, interval = metrics["transfer_gain"], metrics.get("transfer_gain_ci")
        sure = "" if interval is None else f"95 % interval {interval[0]:.2f} to {interval[1]:.2f}; "
        console.print(
            f"transfer gain  [bold]{gain:.2f}[/]  ({sure}KID from scratch / KID transferred)", highlight=False
        )
    for warning in warnings(metrics):
        console.print(f"but            [bold red]{warning}[/]", highlight=False, soft_wrap=True)
    if metrics.get("memorization_passed") is not None:
        console.print(f"copies         {_copies(metrics)}", highlight=False)
    _print_registered(console, model)
    console.print(f"pictures       {summary['report']}", markup=False, highlight=False, soft_wrap=True)


def _print_registered(console: Console, model: Mapping[str, Any] | None) -> None:
    """Print the version; None is one that was registered, and that MLflow does not have any more."""
    gone = "no more: the version was deleted in MLflow meanwhile"
    said = gone if model is None else f"{model['name']} version {model['version']}  {model['uri']}"
    console.print(f"registered     {said}", markup=False, highlight=False)


def _copies(metrics: Mapping[str, Any]) -> str:
    """Return whether the transferred samples copy training images, and the shares that say so."""
    copies, near = (
        [f"{100 * metrics[f'{name}{end}']:.1f} %" for end in ("", "_heldout", "_threshold")]
        for name in ("copies", "memorization")
    )
    verdict = "no" if metrics["memorization_passed"] else "[bold red]yes[/]"
    return (
        f"{verdict}: {copies[0]} of samples (allowed {copies[2]}); next to a training image {near[0]} "
        f"(unseen real ones {near[1]}, allowed {near[2]})"
    )


def print_ranking(summary: Mapping[str, Any]) -> None:
    """Print the ranked table that ends a comparison."""
    console = _Output()
    ranking = Table(*summary["ranking"][0], box=None, pad_edge=False)
    for column in ranking.columns[1:]:
        column.justify = "right"
    for row in summary["ranking"]:
        ranking.add_row(*row.values())
    console.print(ranking)
    console.print(f"\n{summary['headline']}", highlight=False)
    _print_registered(console, summary["model"])
    console.print(f"page           {summary['report']}", markup=False, highlight=False, soft_wrap=True)


def print_metrics(numbers: Mapping[str, Any]) -> None:
    """Print the table of `genxfer metrics`, and what its numbers depend on."""
    table = Table("metric", "value", "95 % interval", "", box=None, pad_edge=False)
    table.columns[1].justify = table.columns[2].justify = "right"
    for name, meaning in MEANINGS.items():
        if numbers.get(name) is not None:
            low_high = numbers.get(f"{name}_ci")
            interval = "" if low_high is None else " to ".join(f"{end:.4g}" for end in low_high)
            table.add_row(name, f"{numbers[name]:.4g}", interval, meaning.format(**numbers))
    console = _Output()
    console.print(table)
    train = f", {numbers['n_train']:,} trained on" if "n_train" in numbers else ""
    console.print(f"\n{numbers['n_fake']:,} fake images against {numbers['n_real']:,} real ones{train}")
    weights = f"weights {numbers['extractor_digest'][:12]}"
    console.print(f"{numbers['extractor']}, {numbers['feature_size']:,} features, {weights}", highlight=False)


def print_outcome(outcome: Mapping[str, Any]) -> None:
    """Print what a promotion or a rollback came to, and why."""
    console = _Output()
    if outcome["checks"]:
        table = Table("asked", "", "", box=None, pad_edge=False)
        for check in outcome["checks"]:
            table.add_row(check["name"], "[green]yes[/]" if check["passed"] else "[red]no[/]", escape(check["text"]))
        console.print(table)
        console.print()
    else:
        console.print(outcome["reason"], highlight=False, markup=False)
    for note in outcome["notes"]:
        console.print(f"note           {note}", highlight=False, markup=False)
    tried = "  (dry run: nothing was changed)" if outcome["dry_run"] else ""
    console.print(f"{outcome['state']}{tried}", highlight=False, markup=False)
    champion, former = outcome["champion"], outcome["former"]
    before = f", before it version {former}" if former not in (None, champion) else ""
    now = f"version {champion}  models:/{outcome['name']}/{champion}{before}" if champion else "none"
    console.print(f"champion       {now}", highlight=False, markup=False)


def bytes_text(size_bytes: float) -> str:
    """Return 512 B, 3.2 MB, 1.5 GB."""
    for unit in ("B", "KB", "MB", "GB"):
        if size_bytes < 1000:
            return f"{size_bytes:.0f} B" if unit == "B" else f"{size_bytes:.1f} {unit}"
        size_bytes /= 1000
    return f"{size_bytes:.1f} TB"


def print_collection(collection: Mapping[str, Any]) -> None:
    """Print what goes, one line each but for objects, and for what stays how much of it and why."""
    console = _Output()
    going = Table("goes", "", "size", "why", box=None, pad_edge=False)
    for entry in collection["going"]:
        if entry["kind"] != "object":
            going.add_row(entry["kind"], entry["name"], bytes_text(entry["size_bytes"]), escape(entry["why"]))
    objects = [entry["size_bytes"] for entry in collection["going"] if entry["kind"] == "object"]
    if objects:
        going.add_row("objects", f"{len(objects):,}", bytes_text(sum(objects)), "of no record that stays")
    staying = Table("stays", "", "size", "why", box=None, pad_edge=False)
    counted: dict[tuple[str, str], list[int]] = {}
    for entry in collection["staying"]:
        counted.setdefault((entry["kind"], entry["why"]), []).append(entry["size_bytes"])
    for (kind, why), sizes in sorted(counted.items()):
        staying.add_row(kind, f"{len(sizes):,}", bytes_text(sum(sizes)), escape(why))
    for table in (going, staying):
        table.columns[2].justify = "right"
        if table.row_count:
            console.print(table, "")
    freed = bytes_text(collection["freed_bytes"])
    done = f"{freed} freed." if collection["applied"] else f"{freed} would be freed: add --apply to remove it."
    console.print(done if collection["going"] else "Nothing to remove.", highlight=False)


def print_exported(exported: "Exported") -> None:
    """Print what `genxfer export` wrote, and how it compares with torch."""
    shape = " x ".join(map(str, exported.image_shape))
    faster = exported.onnx_images_per_s / exported.torch_images_per_s
    table = Table(escape(exported.path), "", show_header=True, box=None, pad_edge=False, header_style="")
    table.add_row("family", exported.family)
    table.add_row("z -> images", f"n x {exported.latent_dim} -> n x {shape} in -1 to 1")
    table.add_row("size", f"{exported.size_bytes / 1e6:.2f} MB")
    table.add_row("farthest from torch", f"{exported.max_difference:.1e}")
    speeds = f"ONNX Runtime {exported.onnx_images_per_s:.4g}, torch {exported.torch_images_per_s:.4g}"
    table.add_row("images/s on one core", f"{speeds} ({faster:.2f} times as fast)")
    _Output().print(table)


def leave_unread() -> None:
    """Write what is still to come on stdout nowhere: its reader went away, as `head` does."""
    os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


class _Output(Console):
    """A console on stdout that never wraps what a pipe reads."""

    def __init__(self) -> None:
        super().__init__(width=None if sys.stdout.isatty() else PIPE_WIDTH)

    def on_broken_pipe(self) -> None:
        """Go on, where rich would end the process with code 1: what a verb came to is no matter of who reads it."""
        leave_unread()
