"""Before anything runs: what would run, how long it should take, and what changed since the last time.

Reads the standings of `pipeline.Plan` and the records of past runs; runs nothing, writes nothing.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

from genxfer.artifacts.fingerprint import Change, differences
from genxfer.artifacts.record import Record
from genxfer.errors import ParameterError, RegistryError, nearest
from genxfer.pipeline import Plan, Stage

LastDocument = Callable[[str], dict[str, Any] | None]  # stage -> the document of its last run in this working folder


@dataclass(frozen=True)
class Forecast:
    """What one stage would do, and why."""

    stage: str
    cached: bool
    reason: str
    fingerprint: str | None
    expected_s: float | None  # None: no past run to judge by


@dataclass(frozen=True)
class Explanation:
    """What changed since the last run of a stage, or of a stage that it waits for."""

    stage: str
    standing: str
    changes: tuple[Change, ...] = ()
    upstream: tuple["Explanation", ...] = field(default=())


def forecast(plan: Plan) -> list[Forecast]:
    """Return what every enabled stage would do, in running order."""
    return [_forecast(plan, name) for name in plan.enabled()]


def _forecast(plan: Plan, name: str) -> Forecast:
    expected_s = expected_seconds(plan.stages[name], plan.params, plan.store.records(name))
    try:
        standing = plan.standing(name)
    except RegistryError:  # whether a version is there, only the registry knows; of all else the plan can tell
        return Forecast(name, False, "MLflow does not answer", None, expected_s)
    if standing.waits_for:
        return Forecast(name, False, f"waits for {', '.join(standing.waits_for)}", None, expected_s)
    if standing.record and not standing.stale:
        return Forecast(name, True, "in the store", standing.fingerprint, 0.0)
    return Forecast(name, False, standing.stale or "not in the store", standing.fingerprint, expected_s)


def expected_seconds(stage: Stage, params: Any, records: list[Record]) -> float | None:
    """Return how long the stage should take, judging by the newest comparable record; None when there is none.

    Comparable is a run of the same family; the time is taken to grow with the amount of work.
    """
    now = stage.parameters(params)
    for record in records:
        then = record.document["params"]
        if _family(then) == _family(now):
            return record.seconds * stage.amount(now) / stage.amount(then)
    return None


def _family(parameters: Mapping[str, Any]) -> Any:
    return parameters.get("model", {}).get("family")


def explain(plan: Plan, name: str, last_document: LastDocument) -> Explanation:
    """Say what changed since the last run of stage `name`; raises ParameterError when there is no such stage."""
    if name not in plan.stages:
        raise ParameterError(
            f"There is no stage {name!r}.{nearest(name, plan.stages)} Stages: {', '.join(plan.stages)}."
        )
    standing = plan.standing(name)
    last = last_document(name)
    if standing.waits_for:
        upstream = tuple(explain(plan, other, last_document) for other in standing.waits_for)
        text = f"waits for {', '.join(standing.waits_for)}"
        return Explanation(name, text, _own_changes(standing.stage, plan, last), upstream)
    assert standing.document is not None
    changes = tuple(differences(last, standing.document)) if last else ()
    if standing.record and not standing.stale:
        text = "in the store"
    elif standing.stale:
        text = f"would run again: {standing.stale}"
    elif last is None:
        text = "has not run here yet"
    elif not changes:
        text = "would run again: nothing changed, but the store has lost its result"
    else:
        text = "would run again"
    return Explanation(name, text, changes)


def _own_changes(stage: Stage, plan: Plan, last: dict[str, Any] | None) -> tuple[Change, ...]:
    """Return what changed of the stage itself, as far as that is known before its inputs are."""
    if last is None:
        return ()
    now = plan.document(stage, {})
    return tuple(change for change in differences(last, now) if change.kind != "input")
