"""The stage evaluate: source model, baseline and transferred model against the held-out images; numbers and a page."""

from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

from genxfer.artifacts.atomic import write_atomic, write_json_atomic
from genxfer.metrics import load_extractor
from genxfer.metrics.estimate import Measurement, transfer_gain
from genxfer.pipeline import Job
from genxfer.stages.pictures import draw, save_grid
from genxfer.stages.presentation import fill_in
from genxfer.stages.training import snapshot_files

if TYPE_CHECKING:
    import numpy as np
    from torch import Tensor

    from genxfer.metrics.features import Extractor
    from genxfer.models.family import Family

# What is compared: the stage that made the model, and the suffix of its numbers in metrics.json.
MODELS = {"source": ("pretrain", "_source"), "scratch": ("baseline", "_scratch"), "transferred": ("finetune", "")}
FEATURES = Path(".genxfer/cache/features")  # of real images: spares computing them again


def run_evaluate(job: Job) -> dict[str, Any]:
    """Score every model that there is; write the numbers, a sample grid of each, report.html; return the numbers."""
    from genxfer.report.page import render_page
    from genxfer.training.device import processor_threads

    families = {label: _family(job, stage) for label, (stage, _) in MODELS.items() if stage in job.upstream}
    config = job.params.evaluation()
    assert config.n_samples is not None  # resolved by `evaluation()`
    with processor_threads(job.params.compute.threads):
        samples = {label: draw(family, config.n_samples, config.seed) for label, family in families.items()}
        scores, measured = _score(job, samples)
    numbers = _numbers(scores) | measured
    write_json_atomic(job.out_dir / "metrics.json", numbers)
    write_json_atomic(job.out_dir / "closest.json", _closest(scores))
    for label, (_, suffix) in MODELS.items():
        if label in samples:
            save_grid(job.out_dir / f"samples{suffix}.png", samples[label])
    shown = {label: score.numbers for label, score in scores.items()}
    page = render_page(fill_in(job, families["transferred"], samples, shown, numbers))
    write_atomic(job.out_dir / "report.html", page.encode())
    job.tracker.log({name: value for name, value in numbers.items() if isinstance(value, float)}, 0)
    return numbers


def _family(job: Job, stage: str) -> "Family":
    from genxfer.training.snapshot import family_of, load_snapshot

    return family_of(load_snapshot(*snapshot_files(job, stage)))


def _score(job: Job, samples: Mapping[str, "np.ndarray"]) -> tuple[dict[str, Measurement], dict[str, Any]]:
    """Return what was measured of each model's samples, and all that it depends on beside the models."""
    import torch

    from genxfer.metrics.measure import measure
    from genxfer.metrics.sets import FeatureSets

    config = job.params.evaluation()
    extractor = load_extractor(config.extractor, weights=config.extractor_weights)
    real, train = (_real_features(job, array, extractor) for array in ("heldout", "train"))
    scores: dict[str, Measurement] = {}
    for label, images in samples.items():
        sets = FeatureSets(real, extractor.features(torch.from_numpy(images)), train)
        scores[label] = measure(config.metrics, sets, required=("kid",))
    return scores, {
        "n_samples": config.n_samples,
        "n_reference": len(real),
        "n_train": len(train),
        "extractor": config.extractor,
        "extractor_digest": extractor.digest,
        "feature_size": real.shape[1],
        "reference_digest": _digest(job, "heldout"),
        "train_digest": _digest(job, "train"),
        "seed": config.seed,
    }


def _real_features(job: Job, array: str, extractor: "Extractor") -> "Tensor":
    """Return the features of the target's images, held out or trained on; they are kept for the next evaluation."""
    import numpy as np
    import torch

    from genxfer.metrics.cache import cached_features

    def compute() -> "Tensor":
        images = np.load(job.inputs[f"dataset_target/{array}.npy"], mmap_mode="r")
        return extractor.features(torch.from_numpy(np.array(images)))

    return cached_features(FEATURES, _digest(job, array), extractor, compute)


def _digest(job: Job, array: str) -> str:
    return job.upstream["dataset_target"].outputs[f"{array}.npy"].digest


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
