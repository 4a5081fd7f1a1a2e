"""Flow runs that Prefect believes to be running although nobody works on them any more.

A run whose process was killed with its worker, or by a reboot, would stay in the books as Running for ever, and keep
the next one from starting where only one may. Knows nothing of what a flow does.
"""

import logging

import psutil

from genxfer.stack.health import ask

RUN_VARIABLE = "PREFECT__FLOW_RUN_ID"  # in the environment of a run's processes
UNFINISHED = ["PENDING", "RUNNING", "CANCELLING"]
REASON = "Its process is gone. The next run goes on from the last checkpoint."

logger = logging.getLogger("genxfer.stack")


def end_dead_runs(api_url: str, pool: str) -> None:
    """Call every unfinished run of the pool crashed, or cancelled, of which no process is left."""
    wanted = {
        "work_pools": {"name": {"any_": [pool]}},
        "flow_runs": {"state": {"type": {"any_": UNFINISHED}}},
    }
    try:
        runs = ask(f"{api_url}/flow_runs/filter", wanted)
        alive = _runs_with_a_process() if runs else set()
        for run in runs:
            if run["id"] not in alive:
                ended = "CANCELLED" if run["state_type"] == "CANCELLING" else "CRASHED"
                ask(f"{api_url}/flow_runs/{run['id']}/set_state", {"state": {"type": ended, "message": REASON}})
                logger.info("run %s: %s", run["name"], ended.lower())
    except OSError as error:
        logger.warning("the unfinished runs could not be looked through: %s", error)


def _runs_with_a_process() -> set[str]:
    found = set()
    for process in psutil.process_iter():
        try:
            found.add(process.environ().get(RUN_VARIABLE, ""))
        except (psutil.Error, OSError):
            continue
    return found
