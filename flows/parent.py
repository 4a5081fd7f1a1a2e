"""The parent run in MLflow that all stages of one flow run hang below."""

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from prefect.runtime import flow_run

from genxfer.pipeline import StageResult
from genxfer.registry.runs import finish_parent, start_parent


@dataclass
class ParentRun:
    """An open run; `summary`, set at the end of the flow, gives it its numbers and its report.

    `report` is that page as the store has it, where it is there: another run may have laid out its own in its place.

    `used` are results of stages that the flow needed beside those that the summary names, found in the store or made.
    Each was told to the run as it was found; the end says all once more, for those that MLflow did not take then.
    """

    run_id: str
    summary: Mapping[str, Any] | None = None
    used: Sequence[StageResult] = ()
    report: Path | None = None


@contextmanager
def parent_run(name: str) -> Iterator[ParentRun]:
    """Open the run; it ends FINISHED, FAILED after an error, or KILLED after Ctrl-C or a cancellation."""
    tags = {"prefect.flow_run_id": str(flow_run.id), "prefect.flow_run": str(flow_run.name)}
    run = ParentRun(start_parent(name, tags))
    try:
        yield run
    except BaseException as error:
        finish_parent(run.run_id, "FAILED" if isinstance(error, Exception) else "KILLED")
        raise
    summary = run.summary or {"metrics": {}}
    numbers = {name: value for name, value in summary["metrics"].items() if isinstance(value, int | float)}
    report = run.report or summary.get("report")
    files = {"report.html": Path(report)} if report else {}
    used = {(stage, result["fingerprint"]) for stage, result in summary.get("stages", {}).items()}
    used |= {(result.stage, result.fingerprint) for result in run.used}
    finish_parent(run.run_id, "FINISHED", metrics=numbers, files=files, used=used)
