"""The nets of a registered model or of a snapshot folder, for the verbs sample, interpolate, export and merge.

Draws with the code of this installation, as a checkout would; `mlflow.pyfunc.load_model` draws with the code that was
registered. Knows nothing of how a version came to be.
"""

import contextlib
import os
import sqlite3
import tempfile
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray
from pydantic import ValidationError

from genxfer.artifacts.disk import permitted
from genxfer.errors import GenxferError, RegistryError, nearest
from genxfer.models.files import DESCRIPTION_FILE, WEIGHTS_FILE
from genxfer.registry.config import (
    DIGEST_TAG,
    MODEL_URI,
    is_there,
    registry_uri,
    shown_uri,
    sqlite_file,
    tracking_uri,
)
from genxfer.registry.connection import all_pages, connect, explained

if TYPE_CHECKING:
    from mlflow import MlflowClient
    from mlflow.entities.model_registry import ModelVersion

    from genxfer.registry.sampler import SnapshotSampler
    from genxfer.training.snapshot import Snapshot

NAMES_SHOWN = 20  # of registered models, where the one asked for is not among them


@dataclass(frozen=True)
class RegisteredSnapshot:
    """One registered version, and the sha256 of each of its files by name."""

    name: str
    version: str
    digests: Mapping[str, str]

    @property
    def uri(self) -> str:
        """models:/name/version."""
        return f"models:/{self.name}/{self.version}"


def load_images(model: str, n: int, seed: int, temperature: float = 1.0) -> NDArray[np.uint8]:
    """Return uint8 images [n H W C] of `model`, a models:/ URI or a snapshot folder; image i depends on seed and i.

    Raises RegistryError when there is no such model, ParameterError when a number is out of range.
    """
    return load_sampler(model).images(n, seed, temperature)


def load_sampler(model: str) -> "SnapshotSampler":
    """Return the nets of `model`, a models:/ URI or a snapshot folder; raises RegistryError when there is none."""
    with _snapshot_of(model) as (weights, description):
        from genxfer.registry.sampler import SnapshotSampler

        return SnapshotSampler(weights, description)


def load_weights(model: str) -> "Snapshot":
    """Return the snapshot of `model`, a models:/ URI or a snapshot folder; raises RegistryError when there is none."""
    with _snapshot_of(model) as (weights, description):
        from genxfer.training.snapshot import load_snapshot

        return load_snapshot(weights, description)


@contextlib.contextmanager
def _snapshot_of(model: str) -> Iterator[tuple[Path, Path]]:
    """Yield the two files of `model`; what is wrong with them becomes a RegistryError that says what to do."""
    with _snapshot_folder(model) as folder:
        try:
            yield folder / WEIGHTS_FILE, folder / DESCRIPTION_FILE
        except (ValidationError, KeyError, GenxferError) as error:
            advice = (
                "A registered version carries its own code: load it with mlflow.pyfunc.load_model in a process of its "
                "own."
                if _is_registered(model)
                else f"Copy {WEIGHTS_FILE} and {DESCRIPTION_FILE} once more from where they were made, together, or "
                "use the version of genxfer that wrote them."
            )
            raise RegistryError(f"{model} does not fit this version of genxfer: {error}\n{advice}") from None


def _is_registered(model: str) -> bool:
    """Return whether `model` is an address in the registry, no folder."""
    return model.startswith("models:")


@contextlib.contextmanager
def _snapshot_folder(model: str) -> Iterator[Path]:
    """Yield a folder with the snapshot files of `model`."""
    if _is_registered(model):
        with tempfile.TemporaryDirectory(prefix="genxfer-pull-") as temporary:
            yield download(model, Path(temporary))
        return
    folder = Path(model)
    with permitted(f"{model!r} cannot be read", RegistryError):
        missing = [name for name in (WEIGHTS_FILE, DESCRIPTION_FILE) if not (folder / name).is_file()]
    if missing:
        state = f"has no {' and no '.join(missing)}" if folder.is_dir() else "is no folder"
        raise RegistryError(
            f"{model!r} {state}. Give a registered model (models:/NAME@ALIAS or models:/NAME/VERSION) or a folder with "
            f"{WEIGHTS_FILE} and {DESCRIPTION_FILE}."
        )
    yield folder


def registered_snapshot(uri: str) -> RegisteredSnapshot:
    """Return the version that a models:/ URI means, with the digests of its files; raises RegistryError."""
    found = _in_tables(uri)
    if found is None:
        version = resolve(uri)
        found = RegisteredSnapshot(version.name, str(version.version), _digests(dict(version.tags)))
    if WEIGHTS_FILE not in found.digests:
        raise RegistryError(
            f"{uri} is version {found.version}, which does not say what its {WEIGHTS_FILE} is (tag "
            f"{DIGEST_TAG}{WEIGHTS_FILE}): it was not registered by this version of genxfer. Register the model again."
        )
    return found


def _digests(tags: Mapping[str, str]) -> dict[str, str]:
    return {tag.removeprefix(DIGEST_TAG): value for tag, value in tags.items() if tag.startswith(DIGEST_TAG)}


def _in_tables(uri: str) -> RegisteredSnapshot | None:
    """Read the version from a local store's tables, without mlflow, whose import takes seconds; None if in doubt."""
    match = MODEL_URI.fullmatch(uri)
    database = None if os.environ.get("MLFLOW_REGISTRY_URI") else sqlite_file(tracking_uri())
    if match is None or database is None or not database.exists():
        return None
    version_of = "SELECT version FROM registered_model_aliases WHERE name = ? AND alias = ?"
    tags_of = (
        "SELECT t.key, t.value FROM model_version_tags t JOIN model_versions v USING (workspace, name, version)"
        " WHERE v.name = ? AND v.version = ? AND v.status = 'READY' AND v.current_stage <> 'Deleted_Internal'"
    )
    with (
        contextlib.suppress(sqlite3.Error),
        contextlib.closing(sqlite3.connect(f"{database.as_uri()}?mode=ro", uri=True)) as connection,
    ):
        row = connection.execute(version_of, (match["name"], match["alias"])).fetchone() if match["alias"] else None
        version = row[0] if row else match["version"]
        tags = dict(connection.execute(tags_of, (match["name"], version)).fetchall())
        return RegisteredSnapshot(match["name"], str(version), _digests(tags)) if tags else None
    return None


def download(uri: str, folder: Path) -> Path:
    """Fetch a registered version's files below `folder` and return where the snapshot lies; raises RegistryError."""
    version = resolve(uri)
    import mlflow.artifacts

    folder.mkdir(parents=True, exist_ok=True)
    with explained(f"Fetching the files of {uri} (version {version.version})"):
        mlflow.artifacts.download_artifacts(
            artifact_uri=f"models:/{version.name}/{version.version}", dst_path=str(folder), tracking_uri=tracking_uri()
        )
    files = folder / "artifacts"  # where pyfunc models keep them
    if not (files / WEIGHTS_FILE).is_file():
        raise RegistryError(
            f"{uri} is version {version.version}, but its {WEIGHTS_FILE} is not in MLflow's artifact store: "
            "deleted since, or never registered by genxfer. Register the model again."
        )
    return files


def download_description(uri: str, folder: Path) -> Path:
    """Fetch what describes a registered version's weights, and not these, below `folder`; raises RegistryError."""
    version = resolve(uri)
    import mlflow.artifacts

    folder.mkdir(parents=True, exist_ok=True)
    with explained(f"Fetching {DESCRIPTION_FILE} of {uri} (version {version.version})"):
        return Path(
            mlflow.artifacts.download_artifacts(
                artifact_uri=f"models:/{version.name}/{version.version}/artifacts/{DESCRIPTION_FILE}",
                dst_path=str(folder),
                tracking_uri=tracking_uri(),
            )
        )


def resolve(uri: str) -> "ModelVersion":
    """Return the version that a models:/ URI means; raises RegistryError that names what there is instead."""
    match = MODEL_URI.fullmatch(uri)
    if match is None:
        raise RegistryError(f"{uri!r} is no model URI. Write models:/NAME@ALIAS or models:/NAME/VERSION.")
    if not is_there(registry_uri()):
        variable = "MLFLOW_REGISTRY_URI" if os.environ.get("MLFLOW_REGISTRY_URI") else "MLFLOW_TRACKING_URI"
        raise RegistryError(
            f"There is no MLflow store {sqlite_file(registry_uri())}, so no {uri}. Register a model first (genxfer "
            f"run), or set {variable} to the store that has it."
        )
    client = connect()
    with explained(f"Looking for {uri}"):
        _check_name(client, match["name"])
        return _version(client, match["name"], match["alias"], match["version"])


def _check_name(client: "MlflowClient", name: str) -> None:
    from mlflow.exceptions import MlflowException

    try:
        client.get_registered_model(name)
    except MlflowException as error:
        if error.error_code != "RESOURCE_DOES_NOT_EXIST":
            raise
        known = [model.name for model in all_pages(client.search_registered_models)]
        more = f" and {len(known) - NAMES_SHOWN} more" if len(known) > NAMES_SHOWN else ""
        raise RegistryError(
            f"There is no registered model {name!r} in {shown_uri(registry_uri())}; registered are: "
            f"{', '.join(known[:NAMES_SHOWN]) or 'none'}{more}.{nearest(name, known)}"
        ) from None


def _version(client: "MlflowClient", name: str, alias: str | None, version: str | None) -> "ModelVersion":
    aliases = {known: str(number) for known, number in client.get_registered_model(name).aliases.items()}
    versions = {str(found.version): found for found in client.search_model_versions(f"name='{name}'")}
    wanted = aliases.get(alias) if alias else version
    if wanted in versions:
        return versions[wanted]
    named = ", ".join(f"{known} -> version {number}" for known, number in sorted(aliases.items())) or "none"
    numbers = ", ".join(sorted(versions, key=int)) or "none"
    what = f"alias {alias!r}" if alias else f"version {version}"
    hint = nearest(alias, aliases) if alias else ""
    raise RegistryError(f"Model {name!r} has no {what}. Aliases: {named}; versions: {numbers}.{hint}")
