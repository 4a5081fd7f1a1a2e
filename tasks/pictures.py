"""What people see of a run in the Prefect UI: the table of its stages, its scores and its sample grid, as artifacts."""

import base64
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from prefect.artifacts import create_markdown_artifact, create_table_artifact

from genxfer.artifacts.store import Store
from genxfer.config import Params
from genxfer.metrics import SCORED_MODELS
from genxfer.metrics.caution import warnings
from genxfer.pipeline import StageResult
from genxfer.stages import summarise
from tasks.stages import StageState


def show_summary(states: Iterable[StageState], params: Params, store: Store) -> dict[str, Any]:
    """Return the summary of a run from the final states of its tasks, and attach it to the flow run as artifacts."""
    results = [state.result() for state in states]
    summary = summarise(results, params)
    stages = [{"stage": name, **stage} for name, stage in summary["stages"].items()]
    create_table_artifact(key="stages", table=stages, description="Each stage: ran, or cached in the store.")
    markdown = report_markdown(summary, pictures_of(results, store))
    create_markdown_artifact(key="samples", markdown=markdown, description="Scores and samples.")
    return summary


def pictures_of(results: Iterable[StageResult], store: Store) -> dict[str, bytes]:
    """Return the PNG files to show, one below the other: target images, then the samples of each model.

    From the store: in the working folder another run may have laid out its own meanwhile. Raises StoreError.
    """
    outputs = {result.stage: result.record.outputs for result in results}
    files = {"target": outputs["dataset_target"]["preview.png"]}
    for label, suffix in reversed(SCORED_MODELS.items()):
        if samples := outputs["evaluate"].get(f"samples{suffix}.png"):
            files[label] = samples
    return {label: store.read(file).read_bytes() for label, file in files.items()}


def report_markdown(summary: Mapping[str, Any], pictures: Mapping[str, bytes]) -> str:
    """Return the scores as a table, where to find the rest, and the pictures (PNG), inline."""
    metrics, model, report = summary["metrics"], summary["model"], Path(summary["report"])
    lines = ["| model | KID | FID |", "|---|---:|---:|"]
    for label, suffix in SCORED_MODELS.items():
        if f"kid{suffix}" in metrics:
            lines.append(f"| {label} | {_number(metrics, f'kid{suffix}', 4)} | {_number(metrics, f'fid{suffix}', 1)} |")
    if metrics.get("transfer_gain") is not None:
        lines += ["", f"Transfer gain **{metrics['transfer_gain']:.2f}** (KID from scratch / KID transferred)"]
    for warning in warnings(metrics):
        lines += ["", f"**{warning}**"]
    if model is not None:
        lines += ["", f"Registered as `{model['uri']}`"]
    lines += ["", f"Report: `{report}`", ""]  # no link: a page that was loaded by http may not open files
    for label, png in pictures.items():
        lines += [f"### {label}", "", _inline(label, png), ""]
    return "\n".join(lines)


def _inline(label: str, png: bytes) -> str:
    return f"![{label}](data:image/png;base64,{base64.b64encode(png).decode()})"


def _number(metrics: Mapping[str, Any], name: str, digits: int) -> str:
    value = metrics.get(name)
    return "" if value is None else f"{value:.{digits}f}"
