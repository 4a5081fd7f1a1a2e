"""One task per stage, of the same name: run the stage, and end in a state that says whether it had to work.

`run_stage` decides between the store and work, so Prefect's own cache is off. What a stage needs lies in the store; a
task is handed the tasks before it (`wait_for`) only to draw the graph. Each returns its final state, whose result is a
`StageResult`. Call them, don't `.submit()` them: a stage works in the calling thread, where Ctrl-C and a cancellation
arrive.
"""

from typing import Any

from prefect import State, task
from prefect.cache_policies import NO_CACHE
from prefect.states import Completed

from genxfer.config import Params
from genxfer.stages import Context, StageResult, run_stage

StageState = State[StageResult]


def _ended(result: StageResult) -> StageState:
    """Return Completed, or Completed under the name Cached, with the fingerprint as its message."""
    name = "Cached" if result.state == "cached" else "Completed"
    return Completed(name=name, message=result.fingerprint, data=result)


@task(cache_policy=NO_CACHE)
def dataset_source(params: Params, context: Context) -> StageState:
    """Read and pack the images of the source domain."""
    return _ended(run_stage("dataset_source", params, context))


@task(cache_policy=NO_CACHE)
def dataset_target(params: Params, context: Context) -> StageState:
    """Read, version and pack the images of the target domain."""
    return _ended(run_stage("dataset_target", params, context))


@task(cache_policy=NO_CACHE)
def pretrain(params: Params, context: Context) -> StageState:
    """Train a model on the source domain."""
    return _ended(run_stage("pretrain", params, context))


@task(cache_policy=NO_CACHE)
def finetune(params: Params, context: Context) -> StageState:
    """Adapt the source model to the target domain."""
    return _ended(run_stage("finetune", params, context))


@task(cache_policy=NO_CACHE)
def baseline(params: Params, context: Context) -> StageState:
    """Train on the target domain from scratch, with the budget of the fine-tuning."""
    return _ended(run_stage("baseline", params, context))


@task(cache_policy=NO_CACHE)
def evaluate(params: Params, context: Context) -> StageState:
    """Score the models against the test images of the target domain."""
    return _ended(run_stage("evaluate", params, context))


@task(cache_policy=NO_CACHE)
def register(params: Params, context: Context) -> StageState:
    """Register the transferred model in MLflow."""
    return _ended(run_stage("register", params, context))


TASKS: dict[str, Any] = {
    task.name: task for task in (dataset_source, dataset_target, pretrain, finetune, baseline, evaluate, register)
}
