"""The stages dataset_source and dataset_target: raw images in, packed and versioned images out."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from genxfer.artifacts.fingerprint import digest_tree
from genxfer.artifacts.record import Record
from genxfer.config import Params
from genxfer.data.config import PACKAGE_KINDS
from genxfer.data.raw import raw_digest
from genxfer.errors import DataError
from genxfer.pipeline import Job
from genxfer.stages.pictures import save_preview

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
    """Return what decides one domain's packed images; where a package's images are laid out for people does not."""
    common = params.dataset.model_dump(include={"resolution_px", "channels", "max_rejects", "seed"}, mode="json")
    source = getattr(params.dataset, domain).model_dump(mode="json")
    if source["kind"] in PACKAGE_KINDS:
        source.pop("path", None)
    return {"dataset": common | {domain: source}}


def raw(domain: str, params: Params) -> dict[str, str]:
    """Return the digest of one domain's raw images, which the packed ones depend on."""
    return {"raw images": raw_digest(getattr(params.dataset, domain), RAW_DIGESTS / f"{domain}.json")}
