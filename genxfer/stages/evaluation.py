"""The stage evaluate: source model, baseline and transferred model against the test images; numbers and a page."""

from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

from genxfer.artifacts.atomic import write_atomic, write_json_atomic
from genxfer.artifacts.closure import code_digests
from genxfer.artifacts.fingerprint import canonical_json, digest_bytes, digest_file
from genxfer.config import Params
from genxfer.metrics import NEED_WEIGHTS, check_packages, load_extractor
from genxfer.metrics.estimate import Measurement, transfer_gain
from genxfer.metrics.weights import weights_digest
from genxfer.pipeline import REGISTRIES, Job
from genxfer.stages.closeups import Match, draw_closeups, extremes
from genxfer.stages.origin import SNAPSHOT
from genxfer.stages.pictures import GRID_IMAGES, draw, save_grid, save_images
from genxfer.stages.presentation import fill_in
from genxfer.stages.training import snapshot_files

if TYPE_CHECKING:
    from torch import Tensor

    from genxfer.metrics.features import Extractor
    from genxfer.models.family import Family

# What is compared: the stage that made the model, and the suffix of its numbers in metrics.json.
MODELS = {"source": ("pretrain", "_source"), "scratch": ("baseline", "_scratch"), "transferred": ("finetune", "")}
FEATURES = Path(".genxfer/cache/features")  # of real images and of shared models: spares computing them again


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
    from genxfer.training.snapshot import family_of, load_snapshot

    return family_of(load_snapshot(*snapshot_files(job, stage)))


def _score(
    job: Job, families: Mapping[str, "Family"]
) -> tuple[dict[str, Measurement], dict[str, Any], tuple[list[Match], list[Match]]]:
    """Return what was measured of each model's samples, all that it depends on beside the models, and `extremes`."""
    from genxfer.metrics.measure import measure
    from genxfer.metrics.sets import FeatureSets

    config = job.params.evaluation()
    extractor = load_extractor(config.extractor, weights=config.extractor_weights)
    real, train = (_real_features(job, array, extractor) for array in ("test", "train"))
    fake = {label: _fake_features(job, label, family, extractor) for label, family in families.items()}
    scores = {
        label: measure(config.metrics, FeatureSets(real, features, train), required=("kid",))
        for label, features in fake.items()
    }
    measured = {
        "n_samples": config.n_samples,
        "n_reference": len(real),
        "n_train": len(train),
        "extractor": config.extractor,
        "extractor_digest": extractor.digest,
        "feature_size": real.shape[1],
        "reference_digest": _digest(job, "test"),
        "train_digest": _digest(job, "train"),
        "seed": config.seed,
    }
    return scores, measured, extremes(real, fake["transferred"])


def _fake_features(job: Job, label: str, family: "Family", extractor: "Extractor") -> "Tensor":
    """Return the features of a model's samples; those of a model that other evaluations share are kept for them."""
    import torch

    from genxfer.metrics.cache import cached_features

    config = job.params.evaluation()
    n, seed = config.n_samples or 0, config.seed

    def compute() -> "Tensor":
        return extractor.features(torch.from_numpy(draw(family, n, seed)))

    if label == "transferred":
        return compute()
    files = {
        name: digest_file(path) for name, path in zip(SNAPSHOT, snapshot_files(job, MODELS[label][0]), strict=True)
    }
    code = code_digests([family.config.module, "genxfer.stages.pictures:draw"], registries=REGISTRIES)
    key = canonical_json({"samples": n, "seed": seed, "model": files, "code": code})
    return cached_features(FEATURES, digest_bytes(key.encode()), extractor, compute)


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
