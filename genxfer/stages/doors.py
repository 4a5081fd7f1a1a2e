"""What the three front doors (command line, DVC, Prefect) call: `run_stage`, and what surrounds a run of all stages."""

import json
import logging
import os
import shutil
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

from genxfer import pipeline
from genxfer.artifacts.atomic import write_json_atomic
from genxfer.artifacts.store import open_store
from genxfer.config import Params
from genxfer.data.raw import check_n_train
from genxfer.errors import ParameterError
from genxfer.launch.nodes import find_nodes
from genxfer.pipeline import DOCUMENT, Context, Job, Plan, StageResult
from genxfer.stages.registration import dataset_revisions
from genxfer.stages.table import STAGES
from genxfer.training.tracker import ConsoleTracker, Tracker, Trackers

logger = logging.getLogger("genxfer.stages")

EXPORTS = Path("artifacts")  # where the light outputs are laid out, a folder for each stage


def current_plan(params: Params) -> Plan:
    """Return where every stage stands in the store of this working folder."""
    preflight(params)
    return Plan(STAGES, params, open_store())


def run_stage(name: str, params: Params, context: Context, meeting_point: str | None = None) -> StageResult:
    """Return the result of stage `name`, from the store or by running it; see pipeline.run_stage.

    `meeting_point` is HOST:PORT where several hosts meet, by default what the environment says.
    """
    preflight(params)
    if not STAGES[name].enabled(params):
        section = STAGES[name].section
        raise ParameterError(f"{section}.enabled is false, so there is no {name} to run. Set {section}.enabled=true.")
    if STAGES[name].spreads:
        context = replace(context, nodes=find_nodes(params.compute.nodes, meeting_point, os.environ))
    return pipeline.run_stage(STAGES, name, params, context)


def leave_out(name: str) -> None:
    """Lay out nothing for stage `name`, which is turned off: DVC wants its folder, but not what a former run left."""
    folder = EXPORTS / name
    shutil.rmtree(folder, ignore_errors=True)
    write_json_atomic(folder / "left_out.json", {f"{STAGES[name].section}.enabled": False})
    logger.info("%s: left out, %s.enabled is false", name, STAGES[name].section)


def preflight(params: Params) -> None:
    """Raise on what a look at the raw images and the extractor's weights can tell, before anything is written."""
    check_n_train(params.dataset)
    STAGES["evaluate"].raw(params)


def local_context(parent_run_id: str | None = None) -> Context:
    """Return the context of this working folder: its store, MLflow and the terminal."""
    return Context(open_store(), _open_tracker, EXPORTS, parent_run_id)


@contextmanager
def _open_tracker(job: Job) -> Iterator[Tracker]:
    """Show a stage's progress on the terminal and, while it works, as a run in MLflow."""
    console = ConsoleTracker(job.stage.name)
    if not job.stage.tracked:
        yield console
        return
    from genxfer.registry.tracking import TrackedRun

    with TrackedRun(
        job.stage.name,
        fingerprint=job.fingerprint,
        parent_run_id=job.parent_run_id,
        params=job.stage.parameters(job.params),
        datasets=dataset_revisions(job.params, job.upstream),
    ) as run:
        yield Trackers([console, run])
        run.attach({name: job.out_dir / name for name in job.stage.shown})


def last_document(name: str) -> dict[str, Any] | None:
    """Return what the last run of stage `name` in this working folder depended on, None when there was none."""
    try:
        document: dict[str, Any] = json.loads((EXPORTS / name / DOCUMENT).read_text())
    except (OSError, ValueError):
        return None
    return document


def summarise(results: Sequence[StageResult], params: Params) -> dict[str, Any]:
    """Return what a run ends with: each stage, the metrics, the registered model, and where the report is."""
    from genxfer.registry.models import find_version

    by_name = {result.stage: result for result in results}
    model = find_version(params.registration.name, by_name["register"].fingerprint)
    return {
        "stages": {result.stage: result.to_json() for result in results},
        "metrics": by_name["evaluate"].record.facts,
        "model": None if model is None else {"name": model.name, "version": model.version, "uri": model.uri},
        "report": str((EXPORTS / "evaluate" / "report.html").absolute()),
    }


def save_sample_grid(model: str, n: int, seed: int, path: Path) -> None:
    """Draw `n` samples of a registered model or a snapshot folder into a PNG file."""
    from genxfer.registry.pull import load_images
    from genxfer.report.grid import grid, save_png

    images = load_images(model, n, seed).transpose(0, 3, 1, 2)
    columns = max(1, round(n**0.5))
    save_png(path, grid(images, columns=columns, scale=2))
