"""What an operator relies on, on a real stack: runs by cron, cancelled, killed, two at once; nothing trained twice."""

import json
import os
import signal
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml

from tests.conftest import GenxferRun
from tests.flows.conftest import until
from tests.flows.test_no_rank_is_left import everything, ranks
from tests.stack.conftest import WELL_WITHIN_S, Stack, make_stack

pytestmark = [pytest.mark.slow, pytest.mark.service, pytest.mark.timeout(900)]

SCHEDULED_WITHIN_S = 120  # the next full minute, on a busy machine
TRAINING_WITHIN_S = 240
ENDED_WITHIN_S = 480
NO_RANK_WITHIN_S = 20

LONG = {
    "pretrain": {"kimg": 20},
    "baseline": {"enabled": False},
    "compute": {"devices": 2, "checkpoint_every_s": 0.5},
}
UNFINISHED = ("SCHEDULED", "PENDING", "RUNNING", "CANCELLING")


class Operation:
    """The deployment `transfer` of a stack, with runs and schedules of any parameters."""

    def __init__(self, stack: Stack) -> None:
        self.stack, self.prefect = stack, stack.prefect
        self.deployment: dict[str, Any] = self.prefect.ask("/deployments/name/transfer/transfer")
        self.work = stack.project / ".genxfer/store/work/pretrain"

    def parameters(self, seed: int, **sections: dict[str, Any]) -> dict[str, Any]:
        """Return the deployment's parameters, with a training of their own."""
        params = json.loads(json.dumps(self.deployment["parameters"]["params"]))
        for name, values in sections.items():
            params[name] |= values
        params["pretrain"]["seed"] = seed
        return {"params": params}

    def start(self, parameters: dict[str, Any]) -> str:
        run = self.prefect.ask(f"/deployments/{self.deployment['id']}/create_flow_run", {"parameters": parameters})
        return str(run["id"])

    def schedule(self, parameters: dict[str, Any]) -> str:
        """Turn on a schedule of every minute, and return its id."""
        path = f"/deployments/{self.deployment['id']}/schedules"
        cron = {"schedule": {"cron": "* * * * *", "timezone": "UTC"}, "active": True, "parameters": parameters}
        [schedule] = self.prefect.ask(path, [cron])
        return str(schedule["id"])

    def unschedule(self, schedule: str) -> None:
        self.prefect.ask(f"/deployments/{self.deployment['id']}/schedules/{schedule}", method="DELETE")

    def state(self, run: str) -> dict[str, Any]:
        state: dict[str, Any] = self.prefect.ask(f"/flow_runs/{run}")["state"]
        return state

    def end(self, run: str) -> dict[str, Any]:
        """Wait until the run has ended, and return how."""
        return until(lambda: None if (state := self.state(run))["type"] in UNFINISHED else state, ENDED_WITHIN_S)

    def runs(self, seed: int) -> list[dict[str, Any]]:
        """Return the runs with that seed which are, or were, not only planned, in order."""
        runs = self.prefect.ask("/flow_runs/filter", {"sort": "EXPECTED_START_TIME_ASC"})
        begun = [run for run in runs if run["state_type"] != "SCHEDULED"]
        return [run for run in begun if run["parameters"]["params"]["pretrain"]["seed"] == seed]

    def tasks(self, run: str) -> dict[str, str]:
        """Return the state's name of each task of a run."""
        found = self.prefect.ask("/task_runs/filter", {"flow_runs": {"id": {"any_": [run]}}})
        return {task["name"].split("-")[0]: task["state_name"] for task in found}

    def until_it_trains(self) -> None:
        """Return when two ranks have trained long enough to have written a checkpoint."""
        before = {path: path.stat().st_mtime_ns for path in self.work.glob("*/checkpoint-*.safetensors")}

        def trains() -> bool:
            now = {path: path.stat().st_mtime_ns for path in self.work.glob("*/checkpoint-*.safetensors")}
            return len(ranks(self.stack.project)) == 2 and bool(now.items() - before.items())

        until(trains, TRAINING_WITHIN_S)

    def pretraining(self, seed: int) -> dict[str, Any]:
        """Return the one record of the pretraining with that seed."""
        files = (self.stack.project / ".genxfer/store/records/pretrain").glob("*.json")
        records = [json.loads(path.read_text()) for path in files]
        [record] = [one for one in records if one["document"]["params"]["pretrain"]["seed"] == seed]
        return dict(record["facts"])


@pytest.fixture(scope="module")
def stack(make_clone: Callable[..., Path], genxfer: GenxferRun) -> Iterator[Stack]:
    yield from make_stack(make_clone(), genxfer)


@pytest.fixture
def operation(stack: Stack) -> Iterator[Operation]:
    operation = Operation(stack)
    yield operation
    until(lambda: not everything(stack.project), WELL_WITHIN_S)  # runs of a schedule that came meanwhile


def test_a_run_by_cron_with_nobody_clicking(operation: Operation) -> None:
    schedule = operation.schedule(operation.parameters(seed=11))
    try:
        [run] = until(lambda: operation.runs(seed=11)[:1], SCHEDULED_WITHIN_S)
    finally:
        operation.unschedule(schedule)
    assert run["auto_scheduled"]
    assert operation.end(run["id"])["type"] == "COMPLETED"
    assert operation.tasks(run["id"])["register"] == "Completed"


def test_a_cancelled_run_leaves_no_rank_and_the_next_one_goes_on(operation: Operation) -> None:
    parameters = operation.parameters(seed=12, **LONG)
    run = operation.start(parameters)
    operation.until_it_trains()
    # what the button in the pages does
    operation.prefect.ask(f"/flow_runs/{run}/set_state", {"state": {"type": "CANCELLING"}, "force": False})
    until(lambda: not everything(operation.stack.project), NO_RANK_WITHIN_S)
    assert operation.end(run)["type"] == "CANCELLED"
    assert operation.end(operation.start(parameters))["type"] == "COMPLETED"
    assert operation.pretraining(seed=12)["resumed_from"] > 0


def test_after_a_killed_worker_the_next_scheduled_run_goes_on(operation: Operation) -> None:
    schedule = operation.schedule(operation.parameters(seed=13, **LONG))
    try:
        operation.until_it_trains()
        [first] = [run["id"] for run in operation.runs(seed=13) if run["state_type"] == "RUNNING"]
        operation.stack.kill("worker")
        until(lambda: not ranks(operation.stack.project), NO_RANK_WITHIN_S)
        assert operation.end(first)["type"] in ("CRASHED", "FAILED")
        done = until(lambda: [r for r in operation.runs(seed=13) if r["state_type"] == "COMPLETED"], ENDED_WITHIN_S)
    finally:
        operation.unschedule(schedule)
    assert done[0]["auto_scheduled"]
    assert operation.pretraining(seed=13)["resumed_from"] > 0


@pytest.mark.parametrize(("strategy", "seed"), [("CANCEL_NEW", 14), ("ENQUEUE", 15)])
def test_of_two_runs_at_once_the_second_is_cancelled_or_waits_as_configured(
    operation: Operation, strategy: str, seed: int
) -> None:
    path = f"/deployments/{operation.deployment['id']}"
    operation.prefect.ask(path, {"concurrency_options": {"collision_strategy": strategy}}, "PATCH")
    runs = [operation.start(operation.parameters(seed)) for _ in range(2)]
    ends = [operation.end(run)["type"] for run in runs]
    first, second = runs if ends[0] == "COMPLETED" else reversed(runs)
    assert operation.tasks(first)["pretrain"] == "Completed"
    if strategy == "CANCEL_NEW":
        assert sorted(ends) == ["CANCELLED", "COMPLETED"]
        assert operation.tasks(second) == {}
    else:
        assert ends == ["COMPLETED", "COMPLETED"]
        trained = [operation.tasks(run)["pretrain"] for run in runs]
        assert sorted(trained) == ["Cached", "Completed"]


def test_a_run_whose_machine_went_down_is_not_running_for_ever(operation: Operation) -> None:
    """The whole stack is killed in mid-training; when it is up again the run has crashed, and the next one goes on."""
    parameters = operation.parameters(seed=16, **LONG)
    run = operation.start(parameters)
    operation.until_it_trains()
    for process in operation.stack.members():
        os.kill(process.pid, signal.SIGSTOP)  # nobody may say a last word
    for process in operation.stack.members():
        os.kill(process.pid, signal.SIGKILL)
    until(lambda: not operation.stack.members(), NO_RANK_WITHIN_S)
    assert operation.stack.up().returncode == 0
    assert operation.end(run)["type"] == "CRASHED"
    assert operation.end(operation.start(parameters))["type"] == "COMPLETED"
    assert operation.pretraining(seed=16)["resumed_from"] > 0


def test_the_form_of_the_pages_has_ranges_and_choices(operation: Operation) -> None:
    sections = operation.deployment["parameter_openapi_schema"]["definitions"]
    resolution = sections["DatasetConfig"]["properties"]["resolution_px"]
    assert (resolution["minimum"], resolution["maximum"]) == (8, 512)
    assert sections["DatasetConfig"]["properties"]["channels"]["enum"] == [1, 3]
    written = yaml.safe_load((operation.stack.project / "params.yaml").read_text())
    assert operation.deployment["parameters"]["params"]["pretrain"]["batch"] == written["pretrain"]["batch"]
