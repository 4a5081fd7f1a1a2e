"""The only place where rooms meet: a stage's function reads files of the store and writes files for it.

`table.py` says what each stage depends on; `dataset.py`, `training.py`, `evaluation.py` and `registration.py` do the
work. `promotion.py` and `garbage.py` are for verbs that make nothing. A function takes a `pipeline.Job`, writes into
`job.out_dir` and returns small facts for the record. Its heavy imports stand inside it: a result found in the store
must not cost the seconds that importing torch takes. The front doors call `run_stage` and nothing else.
"""

from genxfer.pipeline import Context, Plan, StageResult
from genxfer.stages.doors import (
    current_plan,
    last_document,
    leave_out,
    local_context,
    preflight,
    preflight_flow,
    run_stage,
    summarise,
)
from genxfer.stages.table import STAGES

__all__ = [
    "STAGES",
    "Context",
    "Plan",
    "StageResult",
    "current_plan",
    "last_document",
    "leave_out",
    "local_context",
    "preflight",
    "preflight_flow",
    "run_stage",
    "summarise",
]
