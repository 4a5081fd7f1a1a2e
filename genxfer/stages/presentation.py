"""The page of one evaluation, filled in: what the stages before it left in the store, and what was just measured."""

import json
from collections.abc import Mapping
from typing import Any

import numpy as np

from genxfer.artifacts.fingerprint import digest_file
from genxfer.metrics.estimate import Estimate, Measurement
from genxfer.models.files import WEIGHTS_FILE
from genxfer.pipeline import Job
from genxfer.report.curves import read_curves
from genxfer.report.evaluation import (
    Copying,
    EvaluationReport,
    Film,
    LayerGroupRow,
    Likeness,
    Measured,
    Number,
    RealImages,
    Samples,
    Shares,
)
from genxfer.stages.closeups import Closeups
from genxfer.stages.pictures import spread
from genxfer.stages.training import FILMSTRIP
from genxfer.stages.trainings import budgets, published

SHOWN = 64  # of every set of images
TRAINING_STAGES = ("pretrain", "finetune", "baseline")


def fill_in(
    job: Job,
    samples: Mapping[str, np.ndarray],
    scores: Mapping[str, Measurement],
    closeups: Closeups,
    numbers: Mapping[str, Any],
) -> EvaluationReport:
    """Return the report of one evaluation; `samples` and `scores` are by model: source, transferred, maybe scratch.

    `numbers` are those of metrics.json.
    """
    shown = {
        label: Samples(images[:SHOWN], {name: _number(e) for name, e in scores[label].numbers.items()})
        for label, images in samples.items()
    }
    params, method = job.params, job.params.method()
    return EvaluationReport(
        family=params.family.family,
        method=method.method,
        source=_real(job, "dataset_source", "train", params.dataset.source.called)
        if "dataset_source" in job.upstream
        else None,
        target=_real(job, "dataset_target", "train", params.dataset.target.called),
        test=_real(job, "dataset_target", "test", params.dataset.heldout.called),
        source_only=shown["source"],
        from_scratch=shown.get("scratch"),
        transferred=shown["transferred"],
        transfer_gain=_gain(numbers),
        measured=Measured(
            n_samples=numbers["n_samples"],
            n_reference=numbers["n_reference"],
            extractor=numbers["extractor"],
            feature_size=numbers["feature_size"],
            weights_digest=numbers["extractor_digest"],
            reference_digest=numbers["reference_digest"],
            seed=numbers["seed"],
        ),
        yardsticks=scores["transferred"].yardsticks,
        notes=tuple(numbers["notes"]),
        copying=_copying(scores["transferred"], closeups),
        likeness=Likeness(closeups.most, closeups.least) if len(closeups.most) else None,
        interpolations=closeups.interpolations,
        films={stage: _film(job, stage) for stage in ("baseline", "finetune") if stage in job.upstream},
        published=published(job),
        curves={
            stage: read_curves(job.inputs[f"{stage}/curves.csv"]) for stage in TRAINING_STAGES if stage in job.upstream
        },
        layer_groups=tuple(LayerGroupRow(**row) for row in job.upstream["finetune"].facts["layer_groups"]),
        said_of_moves=method.said_of_moves(_last_step(job)),
        lineage=_lineage(job),
    )


def _number(estimate: Estimate) -> Number:
    return Number(estimate.value, estimate.standard_error, estimate.interval)


def _gain(numbers: Mapping[str, Any]) -> Number | None:
    if numbers.get("transfer_gain") is None:
        return None
    low_high = numbers.get("transfer_gain_ci")
    return Number(numbers["transfer_gain"], interval=(low_high[0], low_high[1]) if low_high else None)


def _copying(measured: Measurement, closeups: Closeups) -> Copying | None:
    """Return what the check for copies found; None where it was not asked for or had too few images."""
    if "memorization" not in measured.numbers:
        return None
    copies, near = (
        Shares(measured.numbers[name].value, measured.yardsticks[f"{name}_heldout"], measured.facts[name]["threshold"])
        for name in ("copies", "memorization")
    )
    return Copying(copies, near, measured.facts["memorization"]["passed"], closeups.copies)


def _film(job: Job, stage: str) -> Film:
    """Return the filmstrip of one training; it has no frame where nothing was validated."""
    from genxfer.training.filmstrip import load_filmstrip

    strip = load_filmstrip(job.inputs[f"{stage}/{FILMSTRIP}"])
    kimg = tuple((strip.images_seen / 1000).tolist())
    return Film(strip.frames, kimg, job.upstream[stage].facts["best_kimg"])


def _last_step(job: Job) -> int:
    """Return the images that the fine-tuning had seen when its last step began; patience may have ended it early."""
    images_seen: int = job.upstream["finetune"].facts["images_seen"]
    return images_seen - job.params.finetuning().batch


def _real(job: Job, stage: str, array: str, name: str) -> RealImages:
    images = np.load(job.inputs[f"{stage}/{array}.npy"], mmap_mode="r")
    shown = np.asarray(images[spread(len(images), SHOWN)])
    return RealImages(shown, name, len(images))


def _lineage(job: Job) -> dict[str, dict[str, str]]:
    """Return what the page names its parents by: the digests of the data, and of each model's weights."""
    datasets = {
        f"{stage} {array}": job.upstream[stage].outputs[f"{array}.npy"].digest
        for stage, array in (("dataset_source", "train"), ("dataset_target", "train"), ("dataset_target", "test"))
        if stage in job.upstream
    }
    if md5 := job.upstream["dataset_target"].facts.get("dvc_md5"):
        datasets["target folder, as DVC knows it"] = md5
    weights = {
        stage: job.upstream[stage].outputs[WEIGHTS_FILE].digest for stage in TRAINING_STAGES if stage in job.upstream
    }
    if "pretrain" not in job.upstream:  # the source model came from elsewhere
        weights = _origin_weights(job) | weights
    return {
        "images (sha256)": datasets,
        "training": budgets(job, "pretrain", "finetune"),
        "weights (sha256)": weights,
        "taken over from the source model": _taken_over(job),
    }


def _origin_weights(job: Job) -> dict[str, str]:
    """Return the digest of a source model that no stage here has made."""
    return {"source model": digest_file(job.inputs[f"pretrain/{WEIGHTS_FILE}"])}


def _taken_over(job: Job) -> dict[str, str]:
    """Return which part of each net began as the source model's, and what became of the source check."""
    from genxfer.training.source_check import SourceCheckResult
    from genxfer.transfer.load import percent

    report = json.loads(job.inputs["finetune/load_report.json"].read_text())
    shares = {
        net["net"]: f"{net['taken_over']:,} of {net['values']:,} values, {percent(net['taken_over'] / net['values'])}"
        for net in report["nets"]
    }
    return shares | {"source check": str(SourceCheckResult(**report["source_check"]))}
