"""The stage register: the transferred snapshot and its evidence in, a version in MLflow out."""

import json
from collections.abc import Mapping
from typing import Any

from genxfer.artifacts.record import Record
from genxfer.config import Params
from genxfer.pipeline import Job
from genxfer.registry.config import CARD_LENGTH, DatasetRevision, ModelPackage, registry_name
from genxfer.stages.origin import SOURCE_CHECK
from genxfer.stages.training import snapshot_files, training_parameters

REGISTRIES = "registries"  # the fact of a record that says where its version was registered: names of registries


def run_register(job: Job) -> dict[str, Any]:
    """Register the transferred model in MLflow with its evidence; model.json says how to load it."""
    from genxfer.artifacts.atomic import write_json_atomic
    from genxfer.registry.models import register
    from genxfer.registry.runs import flow_run_of
    from genxfer.report.card import render_card, shorten_card
    from genxfer.stages.card import card_of

    config = job.params.registration
    weights, description = snapshot_files(job, "finetune")
    metrics = json.loads(job.inputs["evaluate/metrics.json"].read_text())
    datasets = dataset_revisions(job.params, job.upstream)
    card = card_of(job, metrics, datasets, flow_run_of(job.parent_run_id))
    package = ModelPackage(
        weights=weights,
        description=description,
        fingerprint=job.fingerprint,
        source_check={file: job.inputs[f"finetune/{file}"] for file in SOURCE_CHECK},
        metrics={name: value for name, value in metrics.items() if isinstance(value, int | float)},
        measured=metrics,
        params=training_parameters("finetune", job.params),
        datasets=datasets,
        lineage={name: record.fingerprint for name, record in job.upstream.items()},
        git_commit=card.git_commit,
        git_dirty=card.git_dirty,
        card=render_card(card),
        short_card=shorten_card(card, CARD_LENGTH),
        files={name: job.inputs[f"evaluate/{name}"] for name in ("samples.png", "report.html")},
    )
    model = register(package, config, job.parent_run_id, job.store)
    write_json_atomic(job.out_dir / "model.json", {"name": config.name, "fingerprint": job.fingerprint})
    return {"name": model.name, "version": model.version, REGISTRIES: _registries(job.former)}


def _registries(former: Record | None) -> list[str]:
    """Return where this was registered before, and the registry in use: its version may stand in each of them."""
    before = former.facts.get(REGISTRIES, []) if former else []
    return list(dict.fromkeys([*before, registry_name()]))


def dataset_revisions(params: Params, upstream: Mapping[str, Record]) -> tuple[DatasetRevision, ...]:
    """Return the packed data sets among `upstream` as they are shown in MLflow."""
    dataset, revisions = params.dataset, []
    for stage, array, domain, source in (
        ("dataset_source", "train", "source", dataset.source),
        ("dataset_target", "train", "target", dataset.target),
        ("dataset_target", "test", "test", dataset.heldout),
    ):
        if record := upstream.get(stage):
            revisions.append(
                DatasetRevision(
                    domain=domain,  # type: ignore[arg-type]
                    name=f"{domain}-{source.kind}",
                    digest=record.outputs[f"{array}.npy"].digest,
                    location=source.called,
                    n_images=record.facts[f"{array}_images"],
                    dvc_md5=record.facts.get("dvc_md5") if domain == "target" else None,
                )
            )
    return tuple(revisions)


def not_registered(params: Params, record: Record) -> str | None:
    """Say when the registry in use does not have the version that the record speaks of."""
    from genxfer.registry.config import shown_uri
    from genxfer.registry.models import find_version

    if find_version(params.registration.name, record.fingerprint):
        return None
    return f"{shown_uri()} has no such version"
