"""The deployment `transfer` of a stack under test: runs and schedules of any parameters, and what became of them."""

import json
from typing import Any

from tests.flows.test_no_rank_is_left import ranks
from tests.stack.conftest import Stack
from tests.waiting import until

SCHEDULED_WITHIN_S = 120  # the next full minute, on a busy machine
TRAINING_WITHIN_S = 240
ENDED_WITHIN_S = 480
NO_RANK_WITHIN_S = 20

LONG = {
    "pretrain": {"kimg": 12},
    "baseline": {"enabled": False},
    "compute": {"devices": 2, "checkpoint_every_s": 0.5},
}
ALONE = LONG | {"compute": {"devices": 1}}  # the same training, within rounding, in one process
UNFINISHED = ("SCHEDULED", "PENDING", "RUNNING", "CANCELLING")


class Operation:
    """The deployment `transfer` of a stack, with runs and schedules of any parameters."""

    def __init__(self, stack: Stack) -> None:
        self.stack, self.prefect = stack, stack.prefect
        self.deployment: dict[str, Any] = self.prefect.ask("/deployments/name/transfer/transfer")
        self.work = stack.project / ".genxfer" / ("work" if stack.full else "store/work") / "pretrain"

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
        # A schedule has an hour of planned runs, with all their parameters: the server would read and send these.
        begun = {"flow_runs": {"state": {"type": {"not_any_": ["SCHEDULED"]}}}, "sort": "EXPECTED_START_TIME_ASC"}
        runs = self.prefect.ask("/flow_runs/filter", begun)
        return [run for run in runs if run["parameters"]["params"]["pretrain"]["seed"] == seed]

    def unfinished(self) -> list[dict[str, Any]]:
        """Return the runs that are under way or wait for their turn."""
        unfinished = {"flow_runs": {"state": {"type": {"any_": sorted(UNFINISHED)}}}}
        runs: list[dict[str, Any]] = self.prefect.ask("/flow_runs/filter", unfinished)
        return runs

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
