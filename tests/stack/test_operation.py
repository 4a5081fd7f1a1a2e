"""What an operator relies on, on a real stack: runs by cron, cancelled, killed, two at once; nothing trained twice."""

import os
import signal
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import yaml

from tests.conftest import GenxferRun
from tests.flows.test_no_rank_is_left import everything, ranks
from tests.stack.conftest import WELL_WITHIN_S, Stack, make_stack
from tests.stack.operation import (
    ALONE,
    ENDED_WITHIN_S,
    LONG,
    NO_RANK_WITHIN_S,
    SCHEDULED_WITHIN_S,
    UNFINISHED,
    Operation,
)
from tests.waiting import until

pytestmark = [pytest.mark.slow, pytest.mark.service, pytest.mark.timeout(900)]


@pytest.fixture(scope="module")
def stack(make_clone: Callable[..., Path], genxfer: GenxferRun) -> Iterator[Stack]:
    yield from make_stack(make_clone(), genxfer)


@pytest.fixture
def operation(stack: Stack) -> Iterator[Operation]:
    operation = Operation(stack)
    yield operation
    until(lambda: not operation.unfinished(), ENDED_WITHIN_S)  # runs of a schedule that came meanwhile
    until(lambda: not everything(stack.project), WELL_WITHIN_S)


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
    assert {address.ip for address in operation.stack.listening()} == {"127.0.0.1"}, "ranks and their launcher included"
    # what the button in the pages does
    operation.prefect.ask(f"/flow_runs/{run}/set_state", {"state": {"type": "CANCELLING"}, "force": False})
    until(lambda: not everything(operation.stack.project), NO_RANK_WITHIN_S)
    assert operation.end(run)["type"] == "CANCELLED"
    assert operation.end(operation.start(operation.parameters(seed=12, **ALONE)))["type"] == "COMPLETED"
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
def test_of_two_scheduled_runs_at_once_the_second_is_cancelled_or_waits_as_configured(
    operation: Operation, strategy: str, seed: int
) -> None:
    path = f"/deployments/{operation.deployment['id']}"
    operation.prefect.ask(path, {"concurrency_options": {"collision_strategy": strategy}}, "PATCH")
    awaited = {"CANCEL_NEW": {"COMPLETED", "CANCELLED"}, "ENQUEUE": {"COMPLETED"}}[strategy]

    def ended() -> list[tuple[str, str]]:
        """Return how each run ended, and what became of its pretraining; later minutes may have added some."""
        runs = [run for run in operation.runs(seed) if run["state_type"] not in UNFINISHED]
        return [(run["state_type"], operation.tasks(run["id"]).get("pretrain", "never begun")) for run in runs]

    schedules = [operation.schedule(operation.parameters(seed)) for _ in range(2)]  # both are due every full minute
    try:
        until(lambda: len(ended()) >= 2 and {state for state, _ in ended()} >= awaited, ENDED_WITHIN_S)
    finally:
        for schedule in schedules:
            operation.unschedule(schedule)
    ends = ended()
    assert ends.count(("COMPLETED", "Completed")) == 1
    assert set(ends) <= {("COMPLETED", "Completed"), ("COMPLETED", "Cached"), ("CANCELLED", "never begun")}
    assert strategy == "CANCEL_NEW" or all(state == "COMPLETED" for state, _ in ends)


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
    assert operation.end(operation.start(operation.parameters(seed=16, **ALONE)))["type"] == "COMPLETED"
    assert operation.pretraining(seed=16)["resumed_from"] > 0


def test_the_form_of_the_pages_has_ranges_and_choices(operation: Operation) -> None:
    sections = operation.deployment["parameter_openapi_schema"]["definitions"]
    resolution = sections["DatasetConfig"]["properties"]["resolution_px"]
    assert (resolution["minimum"], resolution["maximum"]) == (8, 256)
    assert sections["DatasetConfig"]["properties"]["channels"]["enum"] == [1, 3]
    written = yaml.safe_load((operation.stack.project / "params.yaml").read_text())
    assert operation.deployment["parameters"]["params"]["pretrain"]["batch"] == written["pretrain"]["batch"]
