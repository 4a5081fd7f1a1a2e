"""The stages dataset_source and dataset_target: raw images in, packed and versioned images out."""

import json
import logging
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from genxfer.artifacts.fingerprint import digest_tree
from genxfer.artifacts.record import Record
from genxfer.config import Params
from genxfer.data.config import PACKAGE_KINDS
from genxfer.data.raw import raw_digest
from genxfer.errors import DataError
from genxfer.pipeline import Job, Plan
from genxfer.stages.pictures import save_preview

logger = logging.getLogger("genxfer.stages")

DOMAINS = ("dataset_source", "dataset_target")
PLACES = ("path", "root", "download")  # keys of a source that say where its raw images lie, and how they came there
RAW_DIGESTS = Path(".genxfer/cache")  # spares hashing a large folder of raw images again


def run_dataset_source(job: Job) -> dict[str, Any]:
    """Read and pack the source domain: train.npy, manifest.json, preview.png."""
    from genxfer.data.pack import pack_source

    manifest = pack_source(job.params.dataset, job.out_dir)
    save_preview(job.out_dir)
    return _dataset_facts(manifest)


def run_dataset_target(job: Job) -> dict[str, Any]:
    """Lay out, version and pack the target domain: train.npy, validation.npy, test.npy, the manifest, a preview."""
    from genxfer.data import versions
    from genxfer.data.export import export_target_pngs
    from genxfer.data.pack import pack_target

    config = job.params.dataset
    export_target_pngs(config)
    folder = _target_folder(job.params)
    laid_out = {"folder_digest": _folder_digest(folder)} if folder else {}  # before DVC, which has no word for a file
    md5 = versions.add(folder) if folder else None
    manifest = pack_target(config, job.out_dir, md5=md5)
    save_preview(job.out_dir)
    return _dataset_facts(manifest) | {"dvc_md5": md5} | laid_out


def _dataset_facts(manifest: Mapping[str, Any]) -> dict[str, Any]:
    counts = {f"{name}_images": array["n"] for name, array in manifest["arrays"].items()}
    return {
        "kind": manifest["kind"],
        "raw_digest": manifest["raw_digest"],
        "rejects": len(manifest["rejects"]),
        "left_out": manifest["left_out"]["n"],
    } | counts


def _target_folder(params: Params) -> Path | None:
    """Return the folder in which the raw target images lie, if they lie in one."""
    target = params.dataset.target
    folder = Path(getattr(target, "path", "")) if target.kind not in ("archive", "torchvision") else None
    return folder if folder is not None and folder.is_dir() else None


def _folder_digest(folder: Path) -> str:
    """Return the digest of all that lies in the target folder; raises DataError."""
    try:
        return digest_tree(folder)
    except OSError as error:
        raise DataError(
            f"{error.filename}, in the folder of the target images, cannot be read: {error.strerror}. Remove it, "
            "as it may be a link whose file is gone, or make it readable; then run again."
        ) from error


def target_moved(params: Params, record: Record) -> str | None:
    """Say when the folder that shows a package's target images is not as the record's run left it."""
    if params.dataset.target.kind not in PACKAGE_KINDS:
        return None  # what lies in any other folder is in the fingerprint itself
    path = params.dataset.target.path  # type: ignore[union-attr]
    folder = _target_folder(params)
    if folder is None:
        return f"{path} is not there"
    try:
        digest = digest_tree(folder)
    except OSError as error:  # the run, which comes next, says what to do
        return f"{error.filename} cannot be read: {error.strerror}"
    return None if digest == record.facts.get("folder_digest") else f"{path} was changed"


def dataset_parameters(domain: str, params: Params) -> dict[str, Any]:
    """Return what decides one domain's packed images, beside the raw ones, for which their digest stands.

    So not where these lie or came from, nor what can only refuse them.
    """
    common = params.dataset.model_dump(include={"resolution_px", "channels", "seed"}, mode="json")
    return {"dataset": common | {domain: _without_places(getattr(params.dataset, domain).model_dump(mode="json"))}}


def _without_places(source: dict[str, Any]) -> dict[str, Any]:
    return {
        key: _without_places(value) if isinstance(value, dict) else value
        for key, value in source.items()
        if key not in PLACES
    }


def check_apart(plan: Plan) -> None:
    """Raise DataError where the source domain has more than `dataset.max_shared` of the target's held-out images.

    Where the model is pretrained here, and as soon as both domains are packed: before the training, in a run of all
    stages. What has no effect on a model, test images, is not among the inputs of those that train.
    """
    records = [plan.standing(name).record for name in DOMAINS if plan.stages[name].enabled(plan.params)]
    if len(records) < len(DOMAINS) or None in records:
        return
    source, target = (_Pack(plan, record) for record in records if record is not None)
    from genxfer.data.shared import shared

    found = shared(source.file("train.npy"), {part: target.file(f"{part}.npy") for part in ("validation", "test")})
    if not found:
        return
    pairs = [
        f"{target.name(one.part, one.held_out)} of the target, {source.name('train', one.source)} of the source"
        for one in found[:3]
    ]
    allowed = plan.params.dataset.max_shared
    told = (
        f"The source domain, which the source model is trained on, has near-duplicates of {len(found)} of the target's "
        f"held-out images; dataset.max_shared allows {allowed}. The first: {'; '.join(pairs)}."
    )
    if len(found) <= allowed:
        logger.warning(told)
        return
    raise DataError(
        f"{told} The numbers would be better than those of images never seen. Take such images out of the source: move "
        "them, or set dataset.source.glob. Or hold out others by dataset.target.heldout. Where they only look alike, "
        "raise dataset.max_shared."
    )


class _Pack:
    """A packed domain in the store."""

    def __init__(self, plan: Plan, record: Record) -> None:
        self._store, self._outputs = plan.store, record.outputs
        self._arrays = json.loads(self.file("manifest.json").read_bytes())["arrays"]

    def file(self, name: str) -> Path:
        return self._store.read(self._outputs[name])

    def name(self, part: str, place: int) -> str:
        """Return the name of an image, or its place where the manifest lists no names so far down."""
        names: list[str] = self._arrays[part]["names"]
        return names[place] if place < len(names) else f"image {place} of {part}.npy"


def raw(domain: str, params: Params) -> dict[str, str]:
    """Return the digest of one domain's raw images, which the packed ones depend on."""
    return {"raw images": raw_digest(getattr(params.dataset, domain), RAW_DIGESTS / f"{domain}.json")}
