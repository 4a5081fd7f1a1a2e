"""The source model that fine-tuning starts from: the stage pretrain's, that in a folder, or a registered one.

From outside the store its files come under the names they have as the stage's outputs, "pretrain/snapshot.safetensors",
and count by their content alone: the same weights are the same input, wherever they lie. Nothing here imports torch or,
for a local MLflow store, mlflow: a cached run asks too.
"""

import functools
import json
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from genxfer.artifacts.atomic import write_atomic
from genxfer.artifacts.disk import permitted
from genxfer.artifacts.fingerprint import digest_bytes, digest_file
from genxfer.config import FROM_PRETRAINING, Params
from genxfer.errors import ParameterError, RegistryError
from genxfer.models.files import DESCRIPTION_FILE, WEIGHTS_FILE
from genxfer.transfer.config import check_family

SNAPSHOT = (WEIGHTS_FILE, DESCRIPTION_FILE)
SOURCE_CHECK = ("source_check.safetensors", "source_check.json")
DESCRIPTIONS = Path(".genxfer/cache/origins")  # of registered versions
STAGE = "pretrain"  # whose outputs a source model from elsewhere stands in for


def pretrains(params: Params) -> bool:
    """Whether the source model is made here, so that there are stages dataset_source and pretrain."""
    return params.finetune.init_from == FROM_PRETRAINING


def pinned(params: Params) -> Params:
    """Return `params` with an alias in finetune.init_from replaced by the version that it means now.

    Raises ParameterError when a folder is no snapshot's, or the evaluation could not compare the model's images,
    TrainingError when it is of another family, RegistryError when there is no such version: before anything is written.
    """
    where = params.finetune.init_from
    if pretrains(params):
        return params
    if not where.startswith("models:"):
        _check_folder(Path(where), params)
        return params
    from genxfer.registry.pull import registered_snapshot

    version = registered_snapshot(where)
    if DESCRIPTION_FILE in version.digests:
        _check_described(version.uri, _registered_description(version.uri, version.digests[DESCRIPTION_FILE]), params)
    finetune = params.finetune.model_copy(update={"init_from": version.uri})
    return params.model_copy(update={"finetune": finetune})


def origin_digests(files: Sequence[str], params: Params) -> dict[str, str]:
    """Return the sha256 of those of `files` that a source model from outside the store has, by their input names."""
    if pretrains(params):
        return {}
    digests = _digests(params.finetune.init_from)
    return {f"{STAGE}/{file}": digests[file] for file in files if file in digests}


def fetch_origin(files: Sequence[str], params: Params, folder: Path) -> dict[str, Path]:
    """Return where those files lie, by their input names; a registered version's are fetched into `folder` first."""
    if pretrains(params):
        return {}
    where = params.finetune.init_from
    place = Path(where)
    if where.startswith("models:"):
        from genxfer.registry.pull import download

        place = download(where, folder)
    return {name: place / name.removeprefix(f"{STAGE}/") for name in origin_digests(files, params)}


def _digests(where: str) -> dict[str, str]:
    """Return the sha256 of each of the source model's files that there is, by name."""
    if where.startswith("models:"):
        from genxfer.registry.pull import registered_snapshot

        return dict(registered_snapshot(where).digests)
    paths = (Path(where) / file for file in (*SNAPSHOT, *SOURCE_CHECK))
    return {path.name: _digest(path, path.stat().st_size, path.stat().st_mtime_ns) for path in paths if path.is_file()}


@functools.lru_cache(maxsize=64)
def _digest(path: Path, size_bytes: int, changed_ns: int) -> str:
    """Return the file's sha256; asked several times for each stage, read once."""
    return digest_file(path)


def _check_folder(folder: Path, params: Params) -> None:
    with permitted("finetune.init_from cannot be read", ParameterError):
        missing = [file for file in SNAPSHOT if not (folder / file).is_file()]
    if missing:
        state = f"has no {' and no '.join(missing)}" if folder.is_dir() else "is no folder"
        raise ParameterError(
            f"finetune.init_from is {str(folder)!r}, which {state}. Set it to {FROM_PRETRAINING!r} (the stage), to a "
            f"folder with {' and '.join(SNAPSHOT)}, such as a copy of artifacts/pretrain, or to a registered model: "
            "models:/NAME@ALIAS or models:/NAME/VERSION."
        )
    try:
        with permitted("finetune.init_from cannot be read", ParameterError):
            for file in SNAPSHOT:
                (folder / file).open("rb").close()
        described = json.loads((folder / SNAPSHOT[1]).read_bytes())
    except (OSError, ValueError) as error:
        raise ParameterError(f"finetune.init_from: {folder / SNAPSHOT[1]} cannot be read: {error}") from None
    if not isinstance(described, dict):
        raise ParameterError(
            f"finetune.init_from: {folder / SNAPSHOT[1]} holds {type(described).__name__}, not the description of a "
            "snapshot that training wrote there. Name the folder of another one."
        )
    _check_described(str(folder), described, params)


def _registered_description(uri: str, digest: str) -> dict[str, Any]:
    """Return what describes a registered version; kept by its digest, as fetching it means importing mlflow."""
    kept = DESCRIPTIONS / f"{digest}.json"
    if not (kept.is_file() and digest_file(kept) == digest):
        from genxfer.registry.pull import download_description

        with tempfile.TemporaryDirectory(prefix="genxfer-origin-") as folder:
            content = download_description(uri, Path(folder)).read_bytes()
        if digest_bytes(content) != digest:
            raise RegistryError(
                f"The {DESCRIPTION_FILE} of {uri} is not the one that was registered: its sha256 is "
                f"{digest_bytes(content)}, not {digest}. Register the model again."
            )
        write_atomic(kept, content)
    described: dict[str, Any] = json.loads(kept.read_bytes())
    return described


def _check_described(where: str, described: Mapping[str, Any], params: Params) -> None:
    check_family(params.family.family, described)
    _check_comparable(where, described, params)


def _check_comparable(where: str, described: Mapping[str, Any], params: Params) -> None:
    """Raise ParameterError where samples of the source model are no vectors of pixels as long as the target's."""
    shape, wanted = (
        " x ".join(str(side) for side in (channels, side_px, side_px))
        for channels, side_px in (
            (described.get("channels"), described.get("resolution_px")),
            (params.dataset.channels, params.dataset.resolution_px),
        )
    )
    if params.evaluate.extractor == "pixels" and shape != wanted:
        raise ParameterError(
            f"evaluate.extractor is 'pixels', which compares images of one size, but the images of the source model in "
            f"{where!r} (finetune.init_from) are {shape} and those of dataset {wanted}. Set evaluate.extractor "
            "to another one, such as lite0."
        )
