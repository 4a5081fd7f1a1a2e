"""One rank: python -m genxfer.launch.worker JOB_FILE, with torchrun's environment.

Trains, and tells the launcher how it goes on standard output, one JSON object a line; whatever else is printed goes to
standard error. A signal ends it with its checkpoint written.
"""

import logging
import os
import sys
from pathlib import Path

from genxfer.launch.lifeline import die_with_parent


def main() -> int:
    """Train as the job says and return the exit code."""
    die_with_parent()
    from genxfer.errors import GenxferError
    from genxfer.launch.events import EventLog, Events, EventTracker
    from genxfer.training.distributed import join
    from genxfer.training.interrupt import Interrupted
    from genxfer.training.job import TrainingJob, run_job
    from genxfer.training.tracker import NullTracker

    events = Events(os.fdopen(os.dup(1), "w"))
    os.dup2(2, 1)
    job = TrainingJob.model_validate_json(Path(sys.argv[1]).read_text())
    world = join(leads=job.leads)
    if world.leader:
        logging.basicConfig(level=logging.INFO, handlers=[EventLog(events)])
    try:
        result = run_job(job, EventTracker(events, job.work_dir) if world.leader else NullTracker(), world)
    except Interrupted as interrupted:
        return 128 + interrupted.signal_number
    except GenxferError as error:
        events.send("error", kind=type(error).__name__, message=str(error))
        return error.exit_code
    world.close()
    if world.leader:
        events.send("result", facts=result.facts())
    return 0


if __name__ == "__main__":
    sys.exit(main())
