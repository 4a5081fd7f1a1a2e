"""A trained model becomes a registered version, once per fingerprint: weights, code, numbers, data, lineage, alias.

The fingerprint's tag comes after everything else of a version, and the alias after that: a version without the tag is
half-made, is never found, and is removed by the next attempt. Knows nothing of training or evaluation.
"""

import contextlib
import json
import logging
import os
import shutil
import sqlite3
import tempfile
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

from genxfer.registry.config import (
    DIGEST_TAG,
    LINEAGE_TAG,
    MEASURED_TAG,
    ModelPackage,
    RegisterConfig,
    RegisteredModel,
    sqlite_file,
    tracking_uri,
)
from genxfer.registry.connection import connect, experiment_id, explained
from genxfer.registry.packaging import file_digests, save_package
from genxfer.registry.runs import FINGERPRINT_TAG, STORE_TAG, attach_files
from genxfer.registry.tracking import TrackedRun
from genxfer.report.card import PICTURE, WHOLE

if TYPE_CHECKING:
    from mlflow.entities import LoggedModel

logger = logging.getLogger("genxfer.registry")

UNFINISHED_TAG = "genxfer.unfinished"


def find_version(name: str, fingerprint: str) -> RegisteredModel | None:
    """Return the finished version of `name` made for `fingerprint` in this registry; raises RegistryError."""
    database = None if os.environ.get("MLFLOW_REGISTRY_URI") else sqlite_file(tracking_uri())
    if database is not None:
        if not database.exists():
            return None
        # Importing mlflow takes seconds, and a cached run has nothing else to ask it: so the tables are read directly,
        # and MLflow is asked when they are not as expected.
        with contextlib.suppress(sqlite3.Error):
            return _find_in_tables(database, name, fingerprint)
    client = connect()
    with explained(f"Looking for a version of {name!r}"):
        versions = client.search_model_versions(f"name='{name}' and tags.`{FINGERPRINT_TAG}`='{fingerprint}'")
        ready = [v for v in versions if v.status == "READY"]
    return RegisteredModel(name, str(ready[0].version), ready[0].run_id or "") if ready else None


def register(
    package: ModelPackage, config: RegisterConfig, parent_run_id: str | None = None, store: str = ""
) -> RegisteredModel:
    """Publish `package` unless it is there already, point the alias at it, and return it; raises RegistryError.

    `store` names the artifact store whose lock on the package's fingerprint the process holds.
    """
    model = find_version(config.name, package.fingerprint) or _publish(package, config, parent_run_id, store)
    with explained(f"Pointing the alias {config.alias!r} at version {model.version}"):
        connect().set_registered_model_alias(config.name, config.alias, model.version)
    return model


def _publish(package: ModelPackage, config: RegisterConfig, parent_run_id: str | None, store: str) -> RegisteredModel:
    client = connect()
    run = TrackedRun(
        "register",
        fingerprint=package.fingerprint,
        store=store,
        parent_run_id=parent_run_id,
        params=package.params,
        tags=_lineage_tags(package),
        datasets=package.datasets,
    )
    with run, explained(f"Registering {config.name!r}"):
        _prepare_name(config.name, package.fingerprint, store)
        with _uploaded(package, config.name, run.run_id) as logged:
            _attach_evidence(package, run.run_id, logged.model_id)
        version = client.create_model_version(
            config.name,
            source=logged.model_uri,
            run_id=run.run_id,
            model_id=logged.model_id,
            description=_description(package, run.run_id),
            tags={**_version_tags(package), STORE_TAG: store, UNFINISHED_TAG: package.fingerprint},
        )
        client.set_model_version_tag(config.name, version.version, FINGERPRINT_TAG, package.fingerprint)
        client.delete_model_version_tag(config.name, version.version, UNFINISHED_TAG)
    logger.info("Registered %s version %s.", config.name, version.version)
    return RegisteredModel(config.name, str(version.version), run.run_id)


def _prepare_name(name: str, fingerprint: str, store: str) -> None:
    """Make sure that the registered model `name` exists, without half-made versions of `fingerprint` from `store`.

    One from another store may be in the making.
    """
    client = connect()
    if not client.search_registered_models(f"name='{name}'"):
        client.create_registered_model(name)
    for half_made in client.search_model_versions(f"name='{name}' and tags.`{UNFINISHED_TAG}`='{fingerprint}'"):
        if half_made.tags.get(STORE_TAG, "") != store:
            continue
        logger.warning("Version %s of %s was left half-made; it is removed and made again.", half_made.version, name)
        client.delete_model_version(name, half_made.version)


@contextlib.contextmanager
def _uploaded(package: ModelPackage, name: str, run_id: str) -> "Iterator[LoggedModel]":
    """Upload the model's files and yield MLflow's entry for them; it counts as failed when anything goes wrong."""
    from mlflow.entities import LoggedModelOutput

    client = connect()
    logged = client.create_logged_model(experiment_id(), name, source_run_id=run_id, tags=_lineage_tags(package))
    folder = Path(tempfile.mkdtemp(prefix="genxfer-register-"))
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # advice to MLflow's caller, which is this function and not the user
            save_package(package, folder / "model", logged)
        _add_card(package, folder / "model")
        client.log_model_artifacts(logged.model_id, str(folder / "model"))
        client.log_outputs(run_id, [LoggedModelOutput(logged.model_id, step=0)])
        yield client.finalize_logged_model(logged.model_id, "READY")
    except BaseException:
        with contextlib.suppress(Exception):
            client.finalize_logged_model(logged.model_id, "FAILED")
        raise
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def _description(package: ModelPackage, run_id: str) -> str | None:
    """Return the short card, its picture as MLflow's pages find it."""
    shown = f"get-artifact?path={PICTURE}&run_uuid={run_id}"
    return package.short_card.replace(f"]({PICTURE})", f"]({shown})") or None


def _add_card(package: ModelPackage, folder: Path) -> None:
    """Lay the model card and the picture that it shows beside the weights."""
    if package.card:
        (folder / WHOLE).write_text(package.card, encoding="utf-8")
        if PICTURE in package.files:
            shutil.copyfile(package.files[PICTURE], folder / PICTURE)


def _attach_evidence(package: ModelPackage, run_id: str, model_id: str) -> None:
    """Link the metrics to the model and to the images they were measured on, and add the pictures and the page."""
    client = connect()
    by_domain = {revision.domain: revision for revision in package.datasets}
    measured_on = by_domain.get("test") or by_domain.get("target")
    for name, value in package.metrics.items():
        client.log_metric(
            run_id,
            name,
            value,
            model_id=model_id,
            dataset_name=measured_on.name if measured_on else None,
            dataset_digest=measured_on.mlflow_digest if measured_on else None,
        )
    attach_files(run_id, package.files)
    if package.card:
        client.log_text(run_id, package.card, WHOLE)


def _lineage_tags(package: ModelPackage) -> dict[str, str]:
    """Return where the model comes from: the fingerprint of each stage, each data revision, the code's commit."""
    tags = {f"{LINEAGE_TAG}{stage}": fingerprint for stage, fingerprint in package.lineage.items()}
    for revision in package.datasets:
        tags[f"genxfer.dataset.{revision.domain}"] = revision.digest
        if revision.dvc_md5:
            tags[f"genxfer.dvc_md5.{revision.domain}"] = revision.dvc_md5
    if package.git_commit:
        tags["mlflow.source.git.commit"] = package.git_commit
    if package.git_dirty is not None:
        tags["mlflow.source.git.dirty"] = str(package.git_dirty).lower()  # as MLflow itself writes it
    return tags


def _version_tags(package: ModelPackage) -> dict[str, str]:
    digests = {f"{DIGEST_TAG}{name}": digest for name, digest in file_digests(package).items()}
    numbers = {name: f"{value:.6g}" for name, value in package.metrics.items()}  # for people; exactly in the next one
    measured = {MEASURED_TAG: json.dumps(dict(package.measured))} if package.measured else {}
    return _lineage_tags(package) | numbers | measured | digests


def _find_in_tables(database: Path, name: str, fingerprint: str) -> RegisteredModel | None:
    query = (
        "SELECT v.version, v.run_id FROM model_versions v JOIN model_version_tags t USING (workspace, name, version)"
        " WHERE v.name = ? AND t.key = ? AND t.value = ? AND v.status = 'READY'"
        " AND v.current_stage <> 'Deleted_Internal' ORDER BY v.version DESC"
    )
    with contextlib.closing(sqlite3.connect(f"{database.as_uri()}?mode=ro", uri=True)) as connection:
        row = connection.execute(query, (name, FINGERPRINT_TAG, fingerprint)).fetchone()
    return RegisteredModel(name, str(row[0]), row[1] or "") if row else None
