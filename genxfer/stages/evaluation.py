"""The stage evaluate: source model, baseline and transferred model against the test images; numbers and a page."""

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from genxfer.artifacts.atomic import write_atomic, write_json_atomic
from genxfer.metrics import load_extractor, load_metric
from genxfer.metrics.estimate import Estimate, transfer_gain
from genxfer.pipeline import Job
from genxfer.stages.origin import SNAPSHOT
from genxfer.stages.pictures import draw, save_grid, save_images
from genxfer.stages.presentation import fill_in
from genxfer.stages.training import snapshot_files

if TYPE_CHECKING:
    import numpy as np

    from genxfer.models.family import Family

# What is compared: the stage that made the model, and the suffix of its numbers in metrics.json.
MODELS = {"source": ("pretrain", "_source"), "scratch": ("baseline", "_scratch"), "transferred": ("finetune", "")}
Scores = dict[str, Estimate]  # by metric


def run_evaluate(job: Job) -> dict[str, Any]:
    """Score every model that there is; write metrics.json, a sample grid of each, report.html; return the numbers."""
    from genxfer.report.page import render_page
    from genxfer.training.device import processor_threads

    families = {
        label: _family(job, stage) for label, (stage, _) in MODELS.items() if f"{stage}/{SNAPSHOT[0]}" in job.inputs
    }
    config = job.params.evaluation()
    assert config.n_samples is not None  # resolved by `evaluation()`
    with processor_threads(job.params.compute.threads):
        samples = {label: draw(family, config.n_samples, config.seed) for label, family in families.items()}
        scores, measured = _score(job, samples)
    numbers = _numbers(scores) | measured
    write_json_atomic(job.out_dir / "metrics.json", numbers)
    for label, (_, suffix) in MODELS.items():
        if label in samples:
            save_grid(job.out_dir / f"samples{suffix}.png", samples[label])
    save_images(job.out_dir / "samples.npy", samples["transferred"])
    page = render_page(fill_in(job, samples, scores, numbers))
    write_atomic(job.out_dir / "report.html", page.encode())
    job.tracker.log({name: value for name, value in numbers.items() if isinstance(value, float)}, 0)
    return numbers


def _family(job: Job, stage: str) -> "Family":
    from genxfer.training.snapshot import family_of, load_snapshot

    return family_of(load_snapshot(*snapshot_files(job, stage)))


def _score(job: Job, samples: Mapping[str, "np.ndarray"]) -> tuple[dict[str, Scores], dict[str, Any]]:
    """Return the scores of each model's samples, and all that they depend on beside the models."""
    import numpy as np
    import torch

    config = job.params.evaluation()
    extractor = load_extractor(config.extractor)
    test = np.load(job.inputs["dataset_target/test.npy"], mmap_mode="r")
    real = extractor.features(torch.from_numpy(np.array(test)))
    scores: dict[str, Scores] = {}
    for label, images in samples.items():
        fake = extractor.features(torch.from_numpy(images))
        scores[label] = {name: load_metric(name)(real, fake) for name in config.metrics}
    return scores, {
        "n_samples": config.n_samples,
        "n_reference": len(real),
        "extractor": config.extractor,
        "extractor_digest": extractor.digest,
        "feature_size": real.shape[1],
        "reference_digest": job.upstream["dataset_target"].outputs["test.npy"].digest,
        "seed": config.seed,
    }


def _numbers(scores: Mapping[str, Scores]) -> dict[str, Any]:
    """Return the flat numbers of metrics.json: kid, kid_scratch, kid_source, ..., transfer_gain."""
    numbers: dict[str, Any] = {}
    for label, (_, suffix) in MODELS.items():
        for metric, estimate in scores.get(label, {}).items():
            numbers[f"{metric}{suffix}"] = estimate.value
            if estimate.standard_error is not None:
                numbers[f"{metric}{suffix}_standard_error"] = estimate.standard_error
    if "scratch" in scores:
        numbers["transfer_gain"] = transfer_gain(scores["scratch"]["kid"], scores["transferred"]["kid"])
    return numbers
