"""STAGES: what each stage depends on and which function makes it.

dataset_source --> pretrain --> finetune --> evaluate --> register
dataset_target ------------------^ ^              ^
               `--> baseline ----------------------'
"""

import functools
from typing import Any

from genxfer.config import Params
from genxfer.metrics import EXTRACTOR_PACKAGES, EXTRACTORS, METRICS, NEED_WEIGHTS, check_packages
from genxfer.metrics.weights import weights_digest
from genxfer.pipeline import Inputs, Stage
from genxfer.stages.dataset import dataset_parameters, raw, run_dataset_source, run_dataset_target, target_moved
from genxfer.stages.evaluation import MODELS, run_evaluate
from genxfer.stages.registration import not_registered, run_register
from genxfer.stages.training import SNAPSHOT, run_baseline, run_finetune, run_pretrain, training_parameters


def _evaluate_parameters(params: Params) -> dict[str, Any]:
    """Return what decides the numbers, and what the page says of the training."""
    training = training_parameters("pretrain", params) | training_parameters("finetune", params)
    return training | {"evaluate": params.evaluation().model_dump(mode="json", exclude={"extractor_weights"})}


def _extractor_weights(params: Params) -> dict[str, str]:
    """Return the digest of weights that the user names: what is in the file counts, not where it lies."""
    config = params.evaluate
    check_packages(config.extractor)
    if config.extractor not in NEED_WEIGHTS:
        return {}
    return {"extractor weights": weights_digest(config.extractor, config.extractor_weights)}


def _evaluate_inputs(params: Params) -> Inputs:
    trained = (*SNAPSHOT, "curves.csv")
    models = {stage: trained for stage, _ in MODELS.values() if STAGES[stage].enabled(params)}
    return {"dataset_source": ("train.npy",), "dataset_target": ("train.npy", "heldout.npy", "manifest.json")} | models


def _evaluate_code(params: Params) -> tuple[str, ...]:
    config = params.evaluate
    metrics = (METRICS[name] for name in config.metrics)
    return ("genxfer.stages.evaluation:run_evaluate", params.family.module, EXTRACTORS[config.extractor], *metrics)


def _register_inputs(params: Params) -> Inputs:
    everything: dict[str, tuple[str, ...]] = {name: () for name, stage in STAGES.items() if stage.enabled(params)}
    del everything["register"]
    shown = ("metrics.json", "samples.png", "report.html")
    return everything | {"finetune": SNAPSHOT, "evaluate": shown}


def _training_stage(name: str, inputs: Inputs, **more: Any) -> Stage:
    numbers = "pretrain" if name == "pretrain" else "finetune"
    return Stage(
        name,
        section=name,
        run={"pretrain": run_pretrain, "finetune": run_finetune, "baseline": run_baseline}[name],
        parameters=functools.partial(training_parameters, name),
        code=lambda params: (f"genxfer.stages.training:run_{name}", params.family.module),
        inputs=lambda params: inputs,
        libraries=lambda params: ("torch",),
        amount=lambda parameters: float(parameters[numbers]["kimg"]),
        spreads=True,
        tracked=True,
        **more,
    )


STAGES: dict[str, Stage] = {
    stage.name: stage
    for stage in (
        Stage(
            "dataset_source",
            section="dataset",
            run=run_dataset_source,
            parameters=functools.partial(dataset_parameters, "source"),
            code=lambda params: ("genxfer.stages.dataset:run_dataset_source",),
            raw=functools.partial(raw, "source"),
            libraries=lambda params: ("pillow",),
            heavy=("train.npy",),
        ),
        Stage(
            "dataset_target",
            section="dataset",
            run=run_dataset_target,
            parameters=functools.partial(dataset_parameters, "target"),
            code=lambda params: ("genxfer.stages.dataset:run_dataset_target",),
            raw=functools.partial(raw, "target"),
            libraries=lambda params: ("pillow",),
            heavy=("train.npy", "heldout.npy"),
            stale=target_moved,
        ),
        _training_stage("pretrain", {"dataset_source": ("train.npy",)}),
        _training_stage("finetune", {"dataset_target": ("train.npy",), "pretrain": SNAPSHOT}),
        _training_stage("baseline", {"dataset_target": ("train.npy",)}, enabled=lambda params: params.baseline.enabled),
        Stage(
            "evaluate",
            section="evaluate",
            run=run_evaluate,
            parameters=_evaluate_parameters,
            code=_evaluate_code,
            inputs=_evaluate_inputs,
            raw=_extractor_weights,
            libraries=lambda params: ("torch", *EXTRACTOR_PACKAGES[params.evaluate.extractor]),
            files=("report/page.html",),
            tracked=True,
            shown=("report.html", "samples.png", "metrics.json"),
        ),
        Stage(
            "register",
            section="register",
            run=run_register,
            parameters=lambda params: {"register": params.registration.model_dump(mode="json")},
            code=lambda params: ("genxfer.stages.registration:run_register", params.family.module),
            inputs=_register_inputs,
            libraries=lambda params: ("mlflow",),
            lineage=True,
            stale=not_registered,
        ),
    )
}
