"""The stage evaluate: source model, baseline and transferred model against the test images; numbers and a page."""

from collections.abc import Mapping
from dataclasses import asdict
from typing import TYPE_CHECKING, Any

from genxfer.artifacts.atomic import write_atomic, write_json_atomic
from genxfer.config import Params
from genxfer.metrics import NEED_WEIGHTS, SCORED_MODELS, check_packages, load_extractor
from genxfer.metrics.estimate import Measurement, transfer_gain
from genxfer.metrics.weights import weights_digest
from genxfer.pipeline import Job
from genxfer.stages.closeups import Match, draw_closeups, extremes
from genxfer.stages.features import features_of_all, images_digest
from genxfer.stages.origin import SNAPSHOT
from genxfer.stages.pictures import GRID_IMAGES, draw, save_grid, save_images
from genxfer.stages.presentation import fill_in
from genxfer.stages.training import snapshot_files

if TYPE_CHECKING:
    from torch import Tensor

    from genxfer.models.family import Family

# What is compared: the stage that made the model, and the suffix of its numbers in metrics.json.
MODELS = {
    "source": ("pretrain", SCORED_MODELS["source only"]),
    "scratch": ("baseline", SCORED_MODELS["from scratch"]),
    "transferred": ("finetune", SCORED_MODELS["transferred"]),
}


def run_evaluate(job: Job) -> dict[str, Any]:
    """Score every model that there is; write the numbers, a sample grid of each, report.html; return the numbers."""
    from genxfer.report.page import render_page
    from genxfer.training.device import processor_threads

    families = {
        label: _family(job, stage) for label, (stage, _) in MODELS.items() if f"{stage}/{SNAPSHOT[0]}" in job.inputs
    }
    config = job.params.evaluation()
    with processor_threads(job.params.compute.threads):
        samples = {label: draw(family, GRID_IMAGES, config.seed) for label, family in families.items()}
        scores, measured, matches = _score(job, families)
        closeups = draw_closeups(job, families["transferred"], matches, scores["transferred"].pairs)
    numbers = _numbers(scores) | measured
    write_json_atomic(job.out_dir / "metrics.json", numbers)
    write_json_atomic(job.out_dir / "closest.json", _closest(scores))
    for label, (_, suffix) in MODELS.items():
        if label in samples:
            save_grid(job.out_dir / f"samples{suffix}.png", samples[label])
    save_images(job.out_dir / "samples.npy", samples["transferred"])
    page = render_page(fill_in(job, samples, scores, closeups, numbers))
    write_atomic(job.out_dir / "report.html", page.encode())
    job.tracker.log({name: value for name, value in numbers.items() if isinstance(value, float)}, 0)
    return numbers


def extractor_weights(params: Params) -> dict[str, str]:
    """Return the digest of weights that the user names: what is in the file counts, not where it lies."""
    config = params.evaluate
    check_packages(config.extractor)
    if config.extractor not in NEED_WEIGHTS:
        return {}
    return {"extractor weights": weights_digest(config.extractor, config.extractor_weights)}


def _family(job: Job, stage: str) -> "Family":
    """Return a model on the device that draws all samples: those that the page shows are the ones that are measured."""
    from genxfer.training.device import training_device
    from genxfer.training.snapshot import family_of, load_snapshot

    family = family_of(load_snapshot(*snapshot_files(job, stage)))
    family.nets.to(training_device())
    return family


def _score(
    job: Job, families: Mapping[str, "Family"]
) -> tuple[dict[str, Measurement], dict[str, Any], tuple[list[Match], list[Match]]]:
    """Return what was measured of each model's samples, all that it depends on beside the models, and `extremes`."""
    from genxfer.metrics.measure import measure
    from genxfer.metrics.sets import FeatureSets
    from genxfer.training.device import training_device

    config = job.params.evaluation()
    extractor = load_extractor(config.extractor, str(training_device()), config.extractor_weights)
    models = {label: (MODELS[label][0], family) for label, family in families.items()}
    features = features_of_all(job, models, extractor)
    real, train = features["test"], features["train"]
    scores = {
        label: measure(config.metrics, FeatureSets(real, features[label], train), required=("kid",))
        for label in families
    }
    measured = {
        "n_samples": config.n_samples,
        "n_reference": len(real),
        "n_train": len(train),
        "extractor": config.extractor,
        "extractor_digest": extractor.digest,
        "feature_size": real.shape[1],
        "reference_digest": images_digest(job, "test"),
        "train_digest": images_digest(job, "train"),
        "seed": config.seed,
    }
    measured |= _on_validation(features.get("validation"), features["transferred"])
    return scores, measured, extremes(real, features["transferred"])


def _on_validation(real: "Tensor | None", transferred: "Tensor") -> dict[str, Any]:
    """Return the KID of the transferred model's samples against the validation images, None where there are none.

    What chooses among several models, so that the number against the test images is of a model that it did not choose.
    """
    from genxfer.metrics.measure import measure
    from genxfer.metrics.sets import FeatureSets

    if real is None:
        return {"n_validation": 0, "kid_validation": None}
    found = measure(("kid",), FeatureSets(real, transferred), required=("kid",))
    return {"n_validation": len(real)} | found.flat("_validation")


def _numbers(scores: Mapping[str, Measurement]) -> dict[str, Any]:
    """Return the flat numbers of metrics.json: kid, kid_scratch, kid_source, ..., transfer_gain."""
    numbers: dict[str, Any] = {}
    for label, (_, suffix) in MODELS.items():
        if label in scores:
            numbers |= scores[label].flat(suffix) | dict(scores[label].yardsticks)
    if "scratch" in scores:
        gain = transfer_gain(scores["scratch"].numbers["kid"], scores["transferred"].numbers["kid"])
        numbers["transfer_gain"] = None if gain is None else gain.value
        if gain is not None and gain.interval is not None:
            numbers["transfer_gain_ci"] = list(gain.interval)
    notes = [note for measured in scores.values() for note in measured.notes]
    return numbers | {"notes": list(dict.fromkeys(notes))}


def _closest(scores: Mapping[str, Measurement]) -> dict[str, list[dict[str, Any]]]:
    """Return closest.json: for each model, its samples that come closest to training images, by their places."""
    return {label: [asdict(pair) for pair in measured.pairs] for label, measured in scores.items()}
