"""STAGES: what each stage depends on and which function makes it.

dataset_source --> pretrain --> finetune --> evaluate --> register
dataset_target ------------------^ ^              ^
               `--> baseline ----------------------'

With finetune.init_from other than `pretrain`, the source model comes from outside and the first two are left out.
"""

import functools
from collections.abc import Callable
from typing import Any

from genxfer.config import FROM_PRETRAINING, Params
from genxfer.metrics import EXTRACTOR_PACKAGES, EXTRACTORS, METRICS
from genxfer.pipeline import Inputs, Stage
from genxfer.stages.dataset import (
    check_apart,
    dataset_parameters,
    raw,
    run_dataset_source,
    run_dataset_target,
    target_moved,
)
from genxfer.stages.evaluation import MODELS, extractor_weights, run_evaluate
from genxfer.stages.origin import SNAPSHOT, SOURCE_CHECK, fetch_origin, origin_digests, pretrains
from genxfer.stages.registration import not_registered, run_register
from genxfer.stages.training import (
    FILMSTRIP,
    LOAD_REPORT,
    run_baseline,
    run_finetune,
    run_pretrain,
    training_parameters,
)
from genxfer.training.config import SCORE_EXTRACTOR, SCORE_METRIC
from genxfer.transfer.config import Full

PRETRAINS = f"finetune.init_from={FROM_PRETRAINING}"  # what enables the stages of the source domain
TRAINED_ON = ("train.npy", "validation.npy")  # of the target: what moves the weights, and what chooses the snapshot


def _evaluate_parameters(params: Params) -> dict[str, Any]:
    """Return what decides the numbers, and what the page says of the training."""
    training = training_parameters("finetune", params)
    if pretrains(params):
        training |= training_parameters("pretrain", params)
    return training | {"evaluate": params.evaluation().model_dump(mode="json", exclude={"extractor_weights"})}


def _evaluate_inputs(params: Params) -> Inputs:
    trained = (*SNAPSHOT, "curves.csv")
    inputs: dict[str, tuple[str, ...]] = {"dataset_source": ("train.npy",)} if pretrains(params) else {}
    inputs["dataset_target"] = ("train.npy", "validation.npy", "test.npy", "manifest.json")
    inputs |= {stage: trained for stage, _ in MODELS.values() if STAGES[stage].enabled(params)}
    inputs |= {stage: (*trained, FILMSTRIP) for stage in inputs if stage == "baseline"}
    return inputs | {"finetune": (*trained, FILMSTRIP, LOAD_REPORT)}


def _evaluate_code(params: Params) -> tuple[str, ...]:
    config = params.evaluate
    metrics = (METRICS[name] for name in config.metrics)
    return ("genxfer.stages.evaluation:run_evaluate", params.family.module, EXTRACTORS[config.extractor], *metrics) + (
        ("genxfer.data.shared:shared",) if pretrains(params) else ()  # `check_apart`, before it measures
    )


def _register_inputs(params: Params) -> Inputs:
    everything: dict[str, tuple[str, ...]] = {name: () for name, stage in STAGES.items() if stage.enabled(params)}
    del everything["register"]
    shown = ("metrics.json", "samples.png", "report.html")
    return everything | {"finetune": (*SNAPSHOT, *SOURCE_CHECK), "evaluate": shown}


def _finetune_inputs(params: Params) -> Inputs:
    inputs: dict[str, tuple[str, ...]] = {"dataset_target": TRAINED_ON}
    return inputs | ({"pretrain": (*SNAPSHOT, *SOURCE_CHECK)} if pretrains(params) else {})


def _method_code(name: str, params: Params) -> tuple[str, ...]:
    """Return where the code of the method starts; without a source model nothing is adapted."""
    config = type(params.method()) if name == "finetune" else Full
    return config.module, f"{config.__module__}:{config.__name__}"


def _training_stage(name: str, inputs: Callable[[Params], Inputs], **more: Any) -> Stage:
    """Return one of the three; each scores samples, to choose the best snapshot or to check the source model."""
    numbers = "pretrain" if name == "pretrain" else "finetune"
    return Stage(
        name,
        section=name,
        run={"pretrain": run_pretrain, "finetune": run_finetune, "baseline": run_baseline}[name],
        parameters=functools.partial(training_parameters, name),
        code=lambda params: (
            f"genxfer.stages.training:run_{name}",
            params.family.module,
            *_method_code(name, params),
            METRICS[SCORE_METRIC],
            EXTRACTORS[SCORE_EXTRACTOR],
        ),
        inputs=inputs,
        libraries=lambda params: ("torch", *params.family.libraries, *EXTRACTOR_PACKAGES[SCORE_EXTRACTOR]),
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
            enabled=pretrains,
            switch=PRETRAINS,
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
        _training_stage(
            "pretrain",
            lambda params: {"dataset_source": ("train.npy",)},
            enabled=pretrains,
            switch=PRETRAINS,
            guard=check_apart,
        ),
        _training_stage(
            "finetune",
            _finetune_inputs,
            raw=functools.partial(origin_digests, (*SNAPSHOT, *SOURCE_CHECK)),
            fetch=functools.partial(fetch_origin, (*SNAPSHOT, *SOURCE_CHECK)),
            guard=check_apart,
        ),
        _training_stage(
            "baseline",
            lambda params: {"dataset_target": TRAINED_ON},
            enabled=lambda params: params.baseline.enabled,
            switch="baseline.enabled=true",
        ),
        Stage(
            "evaluate",
            section="evaluate",
            run=run_evaluate,
            parameters=_evaluate_parameters,
            code=_evaluate_code,
            inputs=_evaluate_inputs,
            raw=lambda params: origin_digests(SNAPSHOT, params) | extractor_weights(params),
            fetch=functools.partial(fetch_origin, SNAPSHOT),
            guard=check_apart,
            libraries=lambda params: ("torch", *EXTRACTOR_PACKAGES[params.evaluate.extractor]),
            files=("report/page.html", "report/base.html", "report/style.css"),
            heavy=("samples.npy",),
            tracked=True,
            shown=("report.html", "samples.png", "metrics.json"),
        ),
        Stage(
            "register",
            section="register",
            run=run_register,
            parameters=lambda params: {"register": params.registration.model_dump(mode="json")},
            code=lambda params: (
                "genxfer.stages.registration:run_register",
                "genxfer.registry.served:ServedModel",  # copied, not imported
                params.family.module,
            ),
            inputs=_register_inputs,
            libraries=lambda params: ("mlflow",),
            lineage=True,
            stale=not_registered,
        ),
    )
}
