"""The model card of a registration, filled in: what the stages before it left in the store, and who asked for it."""

from collections.abc import Mapping
from typing import Any

from genxfer.pipeline import Job
from genxfer.registry.config import DatasetRevision
from genxfer.report.card import ImagesUsed, ModelCard
from genxfer.report.verdict import say_published
from genxfer.stages.commit import git_commit
from genxfer.stages.origin import pretrains
from genxfer.stages.trainings import budgets, published

USES = {"source": "source, trained on", "target": "target, trained on", "test": "target, tested on"}


def card_of(
    job: Job,
    numbers: Mapping[str, Any],
    datasets: tuple[DatasetRevision, ...],
    flow_run: str | None,
) -> ModelCard:
    """Return the card of the model that `job` registers; `numbers` are those of metrics.json."""
    params, (commit, changed) = job.params, git_commit()
    return ModelCard(
        name=params.registration.name,
        family=params.family.family,
        method=params.method().method,
        resolution_px=params.dataset.resolution_px,
        channels=params.dataset.channels,
        images=tuple(
            ImagesUsed(USES[one.domain], one.location, one.n_images, one.digest, one.dvc_md5) for one in datasets
        ),
        source_model=None if pretrains(params) else params.finetune.init_from,
        training=_training(job),
        numbers=numbers,
        published=_published(job),
        lineage={name: record.fingerprint for name, record in job.upstream.items()} | {"register": job.fingerprint},
        git_commit=commit,
        git_dirty=changed,
        flow_run=flow_run,
    )


def _training(job: Job) -> dict[str, str]:
    """Return the budget of each training, and what the method was told beside its name."""
    told = budgets(job, "pretrain", "finetune", "baseline")
    if own := job.params.method().model_dump(mode="json", exclude={"method"}):
        told["finetune"] += f"; {', '.join(f'{key} {value}' for key, value in own.items())}"
    return told


def _published(job: Job) -> str:
    from genxfer.transfer.load import percent

    share = job.upstream["finetune"].facts.get("taken_over_share")
    began = "" if share is None else f" {percent(share)} of its values began as the source model's."
    return say_published(published(job)) + began
