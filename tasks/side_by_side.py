"""One task for several variants: one after the other in this process, or side by side in processes of their own.

Not in threads: a stage works in the main thread of its process, where Ctrl-C and a cancellation arrive.
"""

from collections.abc import Sequence
from typing import Any

from prefect.task_runners import ProcessPoolTaskRunner

from genxfer.launch.lifeline import stop_with_parent
from genxfer.pipeline import Context
from genxfer.stages.comparison import Variant
from tasks.stages import StageState


def for_each(task: Any, variants: Sequence[Variant], context: Context, at_once: int) -> list[StageState]:
    """Return the final state of `task` for each of `variants`, at most `at_once` of them running at a time."""
    named = [task.with_options(task_run_name=f"{task.name}-{variant.name}") for variant in variants]
    if at_once == 1:
        return [one(variant.params, context) for one, variant in zip(named, variants, strict=True)]
    with ProcessPoolTaskRunner(max_workers=at_once, initializer=stop_with_parent) as runner:
        futures = [
            runner.submit(one, {"params": variant.params, "context": context})
            for one, variant in zip(named, variants, strict=True)
        ]
        for future in futures:
            future.wait()
        return [future.state for future in futures]
