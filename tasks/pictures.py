"""What people see of a run in the Prefect UI: the table of its stages, its scores and its sample grid, as artifacts."""

import base64
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from prefect.artifacts import create_markdown_artifact, create_table_artifact

from genxfer.config import Params
from genxfer.stages import summarise
from tasks.stages import StageState

ROWS = (("source only", "_source"), ("from scratch", "_scratch"), ("transferred", ""))


def show_summary(states: Iterable[StageState], params: Params) -> dict[str, Any]:
    """Return the summary of a run from the final states of its tasks, and attach it to the flow run as artifacts."""
    summary = summarise([state.result() for state in states], params)
    stages = [{"stage": name, **stage} for name, stage in summary["stages"].items()]
    create_table_artifact(key="stages", table=stages, description="Each stage: ran, or cached in the store.")
    samples = Path(summary["report"]).with_name("samples.png")
    markdown = report_markdown(summary, samples.read_bytes())
    create_markdown_artifact(key="samples", markdown=markdown, description="Scores and samples.")
    return summary


def report_markdown(summary: Mapping[str, Any], samples_png: bytes) -> str:
    """Return the scores as a table, where to find the rest, and the picture itself, inline."""
    metrics, model, report = summary["metrics"], summary["model"], Path(summary["report"])
    lines = ["| model | KID | FID |", "|---|---:|---:|"]
    for label, suffix in ROWS:
        if f"kid{suffix}" in metrics:
            lines.append(f"| {label} | {_number(metrics, f'kid{suffix}', 4)} | {_number(metrics, f'fid{suffix}', 1)} |")
    if metrics.get("transfer_gain") is not None:
        lines += ["", f"Transfer gain **{metrics['transfer_gain']:.2f}** (KID from scratch / KID transferred)"]
    if model is not None:
        lines += ["", f"Registered as `{model['uri']}`"]
    lines += ["", f"Report: [{report}]({report.as_uri()})", ""]
    lines.append(f"![samples](data:image/png;base64,{base64.b64encode(samples_png).decode()})")
    return "\n".join(lines)


def _number(metrics: Mapping[str, Any], name: str, digits: int) -> str:
    value = metrics.get(name)
    return "" if value is None else f"{value:.{digits}f}"
