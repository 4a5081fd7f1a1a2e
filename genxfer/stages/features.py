"""The features that an evaluation compares: those of the target's images, and of samples of every model.

Between the stage evaluate and the job that takes them, in as many processes as `compute.devices` says. Those that other
evaluations share are kept for them; what is kept is not taken again, and where all of it is, no process is started.
"""

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING

from genxfer.artifacts.closure import code_digests
from genxfer.artifacts.fingerprint import canonical_json, digest_bytes, digest_file
from genxfer.pipeline import REGISTRIES, Job
from genxfer.stages.origin import SNAPSHOT
from genxfer.stages.training import snapshot_files

if TYPE_CHECKING:
    from torch import Tensor

    from genxfer.metrics.features import Extractor
    from genxfer.models.family import Family
    from genxfer.training.feature_job import PackedSet, SampleSet

KEPT = Path(".genxfer/cache/features")  # of real images and of shared models
# Of the target: what models are compared with, what they may have copied, and what chooses among several of them.
REAL = ("test", "train", "validation")


def features_of_all(
    job: Job, models: Mapping[str, tuple[str, "Family"]], extractor: "Extractor"
) -> dict[str, "Tensor"]:
    """Return the features [N D] of the target's `REAL` images and of samples of `models`: label -> (stage, family).

    Without `validation` where the target has no such images.
    Raises what `FeatureJob.run` raises, GenxferError when its processes crash.
    """
    from genxfer.metrics.cache import find_features, keep_features

    wanted = _sets(job, {label: stage for label, (stage, _) in models.items()})
    keys = {array: images_digest(job, array) for array in REAL if array in wanted}
    keys |= {label: _digest(job, stage, family) for label, (stage, family) in models.items() if stage != "finetune"}
    kept = {name: find_features(KEPT, key, extractor) for name, key in keys.items()}
    # Copied to where torch lays out its own: by where a matrix begins BLAS may round otherwise, and few rows show it.
    features = {name: found.clone() for name, found in kept.items() if found is not None}
    taken = _take(job, {name: images for name, images in wanted.items() if name not in features}, extractor)
    for name in taken.keys() & keys.keys():
        keep_features(KEPT, keys[name], extractor, taken[name])
    return features | taken


def images_digest(job: Job, array: str) -> str:
    """Return the digest of the target's images."""
    return job.upstream["dataset_target"].outputs[f"{array}.npy"].digest


def _sets(job: Job, stages: Mapping[str, str]) -> "dict[str, PackedSet | SampleSet]":
    """Return the images whose features are wanted, by name."""
    from genxfer.data.dataset import PackedImages
    from genxfer.training.feature_job import PackedSet, SampleSet

    config = job.params.evaluation()
    sets: dict[str, PackedSet | SampleSet] = {}
    for array in REAL:
        file = job.inputs[f"dataset_target/{array}.npy"]
        if n := len(PackedImages(file)):
            sets[array] = PackedSet(file=file, n=n)
    for label, stage in stages.items():
        sets[label] = SampleSet(snapshot=snapshot_files(job, stage), n=config.n_samples or 0, seed=config.seed)
    return sets


def _take(job: Job, sets: "dict[str, PackedSet | SampleSet]", extractor: "Extractor") -> dict[str, "Tensor"]:
    """Return the features of `sets`: all by one start of processes, of which there are no more than blocks to do."""
    import torch

    from genxfer.launch.launcher import carry_out
    from genxfer.training.device import process_count
    from genxfer.training.feature_job import FeatureJob, rows_of_block

    config, compute = job.params.evaluation(), job.params.compute
    images, batch = sum(wanted.n for wanted in sets.values()), extractor.batch[extractor.device.type]
    work = FeatureJob(
        sets=sets,
        rows=rows_of_block(images, batch, torch.get_num_threads()),
        extractor=config.extractor,
        extractor_weights=config.extractor_weights,
        threads=compute.threads,
        work_dir=job.work_dir,
    )
    if left := sum(not work.file(block).exists() for block in work.blocks):
        carry_out(work, min(process_count(compute.devices), left), job.tracker)
    return {name: work.features(name) for name in sets}


def _digest(job: Job, stage: str, family: "Family") -> str:
    """Return the digest of all that a model's samples depend on."""
    config = job.params.evaluation()
    files = {name: digest_file(path) for name, path in zip(SNAPSHOT, snapshot_files(job, stage), strict=True)}
    code = code_digests([family.config.module, "genxfer.training.feature_job:SampleSet"], registries=REGISTRIES)
    key = {"samples": config.n_samples, "seed": config.seed, "model": files, "code": code}
    return digest_bytes(canonical_json(key).encode())
