"""One task for several variants: one after the other in this process, or side by side in processes of their own.

Not in threads: a stage works in the main thread of its process, where Ctrl-C and a cancellation arrive.
"""

import logging
from collections.abc import Sequence
from concurrent.futures.process import BrokenProcessPool
from dataclasses import replace
from typing import Any

from prefect import State
from prefect.logging.handlers import APILogHandler
from prefect.task_runners import ProcessPoolTaskRunner

from genxfer.artifacts.store import open_store
from genxfer.errors import TrainingError
from genxfer.launch.lifeline import stop_with_parent
from genxfer.pipeline import Context, StageResult
from genxfer.stages.comparison import Variant
from genxfer.terminal import show_progress
from tasks.logs import connect_logs

logger = logging.getLogger("genxfer.tasks")


def for_each(task: Any, variants: Sequence[Variant], context: Context, at_once: int) -> dict[Variant, StageResult]:
    """Return what `task` makes of each of `variants`, at most `at_once` of them at a time, without those that failed.

    One method that diverges must not cost the others; raises what the first one raised when all failed, and
    TrainingError when a process was killed.
    """
    named = [task.with_options(task_run_name=f"{task.name}-{variant.name}") for variant in variants]
    place = context if at_once == 1 else _for_other_processes(context)
    calls = [{"params": variant.params, "context": place} for variant in variants]
    if at_once == 1:
        states = [one(**call, return_state=True) for one, call in zip(named, calls, strict=True)]
    else:
        states = _side_by_side(named, calls, at_once)
    ended = dict(zip(variants, states, strict=True))
    for variant, state in ended.items():
        if not state.is_completed():
            logger.warning("%s of %s failed and is left out: %s", task.name, variant.name, state.message)
    if not any(state.is_completed() for state in states):
        states[0].result()  # raises
    return {variant: state.result() for variant, state in ended.items() if state.is_completed()}


def _for_other_processes(context: Context) -> Context:
    """Return `context` with its store opened anew: one on S3 that was used holds a connection, which stays here."""
    return replace(context, store=open_store(context.store.location))


def _side_by_side(tasks: Sequence[Any], calls: Sequence[dict[str, Any]], at_once: int) -> list[State[StageResult]]:
    console = any(not isinstance(handler, APILogHandler) for handler in logging.getLogger("genxfer").handlers)
    with ProcessPoolTaskRunner(max_workers=at_once, initializer=_begin, initargs=(console,)) as runner:
        futures = [runner.submit(task, call) for task, call in zip(tasks, calls, strict=True)]
        try:
            for future in futures:
                future.wait()
        except BrokenProcessPool as error:  # which fails all that are under way: whose process it was is not known
            raise TrainingError(
                f"A process of the comparison was killed, perhaps for want of memory; compare.at_once is {at_once}. "
                "Set it to less, and run the same command again: it goes on from what is there."
            ) from error
        return [future.state for future in futures]


def _begin(console: bool) -> None:
    """Set up a process of the pool: it ends with the flow, and its log goes where the flow's goes."""
    stop_with_parent()
    connect_logs()
    if console:
        show_progress()
