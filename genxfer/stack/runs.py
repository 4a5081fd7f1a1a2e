"""Flow runs that Prefect believes to be running although nobody works on them any more.

A run whose process was killed with its worker, or by a reboot, would stay in the books as Running for ever, and keep
the next one from starting where only one may. Knows nothing of what a flow does.

`python -m genxfer.stack.runs WORKER` ends the dead runs of one worker, before it starts, where PREFECT_API_URL points.
"""

import logging
import sys

import psutil

from genxfer.stack.prefect_api import Api, api_of_environment
from genxfer.stack.settings import POOL

WORKER_LABEL = "prefect.worker.name"  # which Prefect gives to a run
RUN_VARIABLE = "PREFECT__FLOW_RUN_ID"  # in the environment of a run's processes
UNFINISHED = ["PENDING", "RUNNING", "CANCELLING"]
REASON = "Its process is gone. The next run goes on from the last checkpoint."

logger = logging.getLogger("genxfer.stack")


def end_dead_runs(api: Api, worker: str | None = None) -> bool:
    """Call every unfinished run of the pool crashed, or cancelled, of which no process is left.

    Where other machines have workers too, name the one that was here: the processes of theirs cannot be seen. Returns
    whether the API answered.
    """
    wanted = {
        "work_pools": {"name": {"any_": [POOL]}},
        "flow_runs": {"state": {"type": {"any_": UNFINISHED}}},
    }
    try:
        runs = [run for run in api("/flow_runs/filter", wanted) if worker in (None, run["labels"].get(WORKER_LABEL))]
        alive = _runs_with_a_process() if runs else set()
        for run in runs:
            if run["id"] not in alive:
                ended = "CANCELLED" if run["state_type"] == "CANCELLING" else "CRASHED"
                api(f"/flow_runs/{run['id']}/set_state", {"state": {"type": ended, "message": REASON}})
                logger.info("run %s: %s", run["name"], ended.lower())
    except OSError as error:
        logger.warning("the unfinished runs could not be looked through: %s", error)
        return False
    return True


def _runs_with_a_process() -> set[str]:
    found = set()
    for process in psutil.process_iter():
        try:
            found.add(process.environ().get(RUN_VARIABLE, ""))
        except (psutil.Error, OSError):
            continue
    return found


if __name__ == "__main__":
    logging.basicConfig(format="%(asctime)s %(message)s", level=logging.INFO)
    sys.exit(not end_dead_runs(api_of_environment(), sys.argv[1]))
