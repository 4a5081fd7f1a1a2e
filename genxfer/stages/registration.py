"""The stage register: the transferred snapshot and its evidence in, a version in MLflow out."""

import json
import os
import subprocess
from collections.abc import Mapping
from dataclasses import replace
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
    datasets, (commit, changed) = dataset_revisions(job.params, job.upstream), git_commit()
    card = card_of(job, metrics, datasets, flow_run_of(job.parent_run_id))
    card = replace(card, git_commit=commit, git_dirty=changed)
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
        git_commit=commit,
        git_dirty=changed,
        card=render_card(card),
        short_card=shorten_card(card, CARD_LENGTH),
        files={name: job.inputs[f"evaluate/{name}"] for name in ("samples.png", "report.html")},
    )
    model = register(package, config, job.parent_run_id)
    write_json_atomic(job.out_dir / "model.json", {"name": config.name, "fingerprint": job.fingerprint})
    return {"name": model.name, "version": model.version, REGISTRIES: _registries(job.former)}


def _registries(former: Record | None) -> list[str]:
    """Return where this was registered before, and the registry in use: its version may stand in each of them."""
    before = former.facts.get(REGISTRIES, []) if former else []
    return list(dict.fromkeys([*before, registry_name()]))


def dataset_revisions(params: Params, upstream: Mapping[str, Record]) -> tuple[DatasetRevision, ...]:
    """Return the packed data sets among `upstream` as they are shown in MLflow."""
    revisions = []
    for stage, array, domain in (
        ("dataset_source", "train", "source"),
        ("dataset_target", "train", "target"),
        ("dataset_target", "test", "test"),
    ):
        if record := upstream.get(stage):
            source = params.dataset.source if domain == "source" else params.dataset.target
            revisions.append(
                DatasetRevision(
                    domain=domain,  # type: ignore[arg-type]
                    name=f"{domain}-{source.kind}",
                    digest=record.outputs[f"{array}.npy"].digest,
                    location=str(getattr(source, "path", source.kind)),
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


def git_commit() -> tuple[str | None, bool | None]:
    """Return the commit of the working folder, and whether tracked files differ from it; (None, None) outside Git.

    Of an image it is the commit that it says it was built from; what differed then nobody knows: None.
    """
    if built_from := os.environ.get("GENXFER_GIT_COMMIT"):
        return built_from, None
    commit = _git("rev-parse", "--verify", "HEAD")  # without --verify, it answers HEAD where there is no commit
    changes = _git("--no-optional-locks", "status", "--porcelain", "--untracked-files=no") if commit else None
    return commit or None, None if changes is None else bool(changes)


def _git(*arguments: str) -> str | None:
    """Return what git answers, None where it fails or is not there."""
    try:
        answer = subprocess.run(["git", *arguments], capture_output=True, text=True, errors="replace", timeout=60)
    except (OSError, subprocess.TimeoutExpired):
        return None
    return answer.stdout.strip() if answer.returncode == 0 else None
