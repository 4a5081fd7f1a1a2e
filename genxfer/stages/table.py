"""STAGES: what each stage depends on and which function makes it.

dataset_source --> pretrain --> finetune --> evaluate --> register
dataset_target ------------------^ ^              ^
               `--> baseline ----------------------'
"""

import functools
from typing import Any

from genxfer.config import Params
from genxfer.metrics import EXTRACTOR_PACKAGES, EXTRACTORS, METRICS
from genxfer.pipeline import Inputs, Stage
from genxfer.stages.dataset import dataset_parameters, raw, run_dataset_source, run_dataset_target, target_moved
from genxfer.stages.evaluation import MODELS, run_evaluate
from genxfer.stages.registration import not_registered, run_register
from genxfer.stages.training import SNAPSHOT, run_baseline, run_finetune, run_pretrain, training_parameters
from genxfer.training.config import VALIDATION_EXTRACTOR, VALIDATION_METRIC
from genxfer.transfer.config import Full

TRAINED_ON = ("train.npy", "validation.npy")  # of the target: what moves the weights, and what chooses the snapshot


def _evaluate_parameters(params: Params) -> dict[str, Any]:
    """Return what decides the numbers, and what the page says of the training."""
    training = training_parameters("pretrain", params) | training_parameters("finetune", params)
    return training | {"evaluate": params.evaluation().model_dump(mode="json")}


def _evaluate_inputs(params: Params) -> Inputs:
    trained = (*SNAPSHOT, "curves.csv")
    models = {stage: trained for stage, _ in MODELS.values() if STAGES[stage].enabled(params)}
    return {"dataset_source": ("train.npy",), "dataset_target": ("train.npy", "test.npy", "manifest.json")} | models


def _evaluate_code(params: Params) -> tuple[str, ...]:
    config = params.evaluate
    metrics = (METRICS[name] for name in config.metrics)
    return ("genxfer.stages.evaluation:run_evaluate", params.family.module, EXTRACTORS[config.extractor], *metrics)


def _register_inputs(params: Params) -> Inputs:
    everything: dict[str, tuple[str, ...]] = {name: () for name, stage in STAGES.items() if stage.enabled(params)}
    del everything["register"]
    shown = ("metrics.json", "samples.png", "report.html")
    return everything | {"finetune": SNAPSHOT, "evaluate": shown}


def _method_code(name: str, params: Params) -> tuple[str, ...]:
    """Return where the code of the method starts; without a source model nothing is adapted."""
    config = type(params.method()) if name == "finetune" else Full
    return config.module, f"{config.__module__}:{config.__name__}"


def _training_stage(name: str, inputs: Inputs, **more: Any) -> Stage:
    numbers = "pretrain" if name == "pretrain" else "finetune"
    validated = name != "pretrain"  # there, the last snapshot is published
    chosen_by = (METRICS[VALIDATION_METRIC], EXTRACTORS[VALIDATION_EXTRACTOR]) if validated else ()
    chosen_with = EXTRACTOR_PACKAGES[VALIDATION_EXTRACTOR] if validated else ()
    return Stage(
        name,
        section=name,
        run={"pretrain": run_pretrain, "finetune": run_finetune, "baseline": run_baseline}[name],
        parameters=functools.partial(training_parameters, name),
        code=lambda params: (
            f"genxfer.stages.training:run_{name}",
            params.family.module,
            *_method_code(name, params),
            *chosen_by,
        ),
        inputs=lambda params: inputs,
        libraries=lambda params: ("torch", *chosen_with),
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
            heavy=("train.npy", "validation.npy", "test.npy"),
            stale=target_moved,
        ),
        _training_stage("pretrain", {"dataset_source": ("train.npy",)}),
        _training_stage("finetune", {"dataset_target": TRAINED_ON, "pretrain": SNAPSHOT}),
        _training_stage("baseline", {"dataset_target": TRAINED_ON}, enabled=lambda params: params.baseline.enabled),
        Stage(
            "evaluate",
            section="evaluate",
            run=run_evaluate,
            parameters=_evaluate_parameters,
            code=_evaluate_code,
            inputs=_evaluate_inputs,
            libraries=lambda params: ("torch", *EXTRACTOR_PACKAGES[params.evaluate.extractor]),
            files=("report/page.html", "report/style.css"),
            heavy=("samples.npy",),
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
