"""What the three front doors (command line, DVC, Prefect) call: `run_stage`, and what surrounds a run of all stages."""

import json
import logging
import os
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

from genxfer import pipeline
from genxfer.artifacts.atomic import write_json_atomic
from genxfer.artifacts.disk import explaining, keep_only
from genxfer.artifacts.record import DOCUMENT
from genxfer.artifacts.store import open_store
from genxfer.config import Params
from genxfer.data.split import check_split
from genxfer.errors import ParameterError
from genxfer.launch.nodes import find_nodes
from genxfer.pipeline import Context, Job, Plan, StageResult
from genxfer.stages.evaluation import extractor_weights
from genxfer.stages.origin import pinned
from genxfer.stages.registration import dataset_revisions
from genxfer.stages.table import STAGES
from genxfer.training.tracker import ConsoleTracker, Tracker, Trackers

logger = logging.getLogger("genxfer.stages")

EXPORTS = Path("artifacts")  # where the light outputs are laid out, a folder for each stage
LEFT_OUT = "left_out.json"  # all that the folder of a stage holds that is turned off: by which parameter


def current_plan(params: Params) -> Plan:
    """Return where every stage stands in the store of this working folder."""
    return Plan(STAGES, preflight(params), open_store())


def run_stage(name: str, params: Params, context: Context, meeting_point: str | None = None) -> StageResult:
    """Return the result of stage `name`, from the store or by running it; see pipeline.run_stage.

    `meeting_point` is HOST:PORT where several hosts meet, by default what the environment says. The run of a flow is
    told of each result at once, found or made: the next stage reads it, and nobody is to remove it until then.
    """
    params = preflight(params)
    if not STAGES[name].enabled(params):
        key, value = _switch(name, params)
        raise ParameterError(f"{key} is {json.dumps(value)}, so there is no {name} to run. Set {STAGES[name].switch}.")
    if context.export_root is not None:
        _spare_the_source_model(name, params)
    if STAGES[name].spreads:
        context = replace(context, nodes=find_nodes(params.compute.nodes, meeting_point, os.environ))
    result = pipeline.run_stage(STAGES, name, params, context)
    if context.parent_run_id is not None:
        from genxfer.registry.runs import mark_used

        mark_used(context.parent_run_id, result.stage, result.fingerprint)
    return result


def _switch(name: str, params: Params) -> tuple[str, Any]:
    """Return the key that decides whether there is a stage `name`, and its value."""
    key = STAGES[name].switch.partition("=")[0]
    section, field = key.split(".")
    return key, getattr(getattr(params, section), field)


def _spare_the_source_model(name: str, params: Params) -> None:
    """Raise ParameterError when fine-tuning is to start from what lies in the folder of stage `name`, by whatever path.

    What is there goes when the stage lays out its result, or that there is none.
    """
    if Path(params.finetune.init_from).resolve().is_relative_to((EXPORTS / name).resolve()):
        raise ParameterError(
            f"finetune.init_from is {params.finetune.init_from!r}, where {name} lays out its result, and what is there "
            "now would be lost. Copy that folder to another place, and set finetune.init_from to the copy."
        )


def leave_out(name: str, params: Params) -> None:
    """Lay out nothing for stage `name`, which is turned off: DVC wants its folder, but not what a former run left.

    Raises ParameterError when that holds the very model that fine-tuning is to start from.
    """
    folder = EXPORTS / name
    _spare_the_source_model(name, params)
    key, value = _switch(name, params)
    with explaining(f"It could not be written that {name} is left out", folder, setting=None):
        keep_only(folder, {LEFT_OUT})
        write_json_atomic(folder / LEFT_OUT, {key: value})
    logger.info("%s: left out, %s is %s", name, key, json.dumps(value))


def preflight(params: Params, names: Sequence[str] = ()) -> Params:
    """Return `params` with what they name outside pinned: the alias of a source model replaced by its version.

    Raises what a look at the raw images, the source model and the extractor's weights can tell, before anything is
    written: ParameterError, DataError, TrainingError, RegistryError. ParameterError also when one of the stages `names`
    would lay out its result, or that there is none, over the model that fine-tuning starts from.
    """
    check_split(params.dataset)
    extractor_weights(params)
    params = pinned(params)
    for name in names:
        _spare_the_source_model(name, params)
    return params


def preflight_flow(params: Params) -> Params:
    """Return what `preflight` returns, for a run of all stages: before the first one works, not when the last begin."""
    return preflight(params, [name for name, stage in STAGES.items() if stage.enabled(params)])


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
        store=job.store,
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
