"""One rank: python -m genxfer.launch.worker JOB_FILE, with torchrun's environment.

Does its part of the job, and tells the launcher how it goes on standard output, one JSON object a line; whatever else
is printed goes to standard error. A signal ends a training with its checkpoint written.
"""

import importlib
import json
import logging
import os
import sys
from pathlib import Path
from typing import TYPE_CHECKING

from genxfer.launch.lifeline import die_with_parent
from genxfer.leaving import end_with

if TYPE_CHECKING:
    from genxfer.launch.launcher import Job

JOBS: dict[str, str] = {
    "training": "genxfer.training.job:TrainingJob",
    "evaluation": "genxfer.training.feature_job:FeatureJob",
}


def main() -> int:
    """Do as the job says and return the exit code."""
    die_with_parent()
    from genxfer.errors import GenxferError
    from genxfer.launch.events import EventLog, Events, EventTracker
    from genxfer.training.distributed import join
    from genxfer.training.interrupt import Interrupted
    from genxfer.training.tracker import NullTracker

    events = Events(os.fdopen(os.dup(1), "w"))
    os.dup2(2, 1)
    job = read_job(Path(sys.argv[1]))
    world = join(leads=job.leads)
    if world.leader:
        logging.basicConfig(level=logging.INFO, handlers=[EventLog(events)])
    try:
        facts = job.run(EventTracker(events, job.work_dir) if world.leader else NullTracker(), world)
    except Interrupted as interrupted:
        return 128 + interrupted.signal_number
    except GenxferError as error:
        events.send("error", kind=type(error).__name__, message=str(error))
        return error.exit_code
    world.close()
    if world.leader:
        events.send("result", facts=facts)
    return 0


def read_job(path: Path) -> "Job":
    """Return the job of the file, which says its kind."""
    content = path.read_text()
    module, name = JOBS[json.loads(content)["kind"]].split(":")
    job: Job = getattr(importlib.import_module(module), name).model_validate_json(content)
    return job


if __name__ == "__main__":
    end_with(main)
