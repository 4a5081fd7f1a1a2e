"""All images of a domain to uint8 arrays and a manifest: the work of the stage `dataset`.

    open_source -> decode and prepare on threads -> a temporary file -> split -> train, validation, test.npy, manifest

Memory stays bounded by a few images per thread. The output depends on the raw images and the config alone, not on
threads, paths or time. Rows are written with plain writes and never through a memory map, so that a full disk is an
error and not a dead process. Knows nothing of the store that takes the outputs, or of training.
"""

import logging
import os
import tempfile
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import IO, Any, NamedTuple

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from genxfer.artifacts.atomic import write_json_atomic
from genxfer.artifacts.disk import needing_room
from genxfer.artifacts.fingerprint import digest_bytes, digest_file
from genxfer.data.config import DatasetConfig
from genxfer.data.doctor import Facts, examine, statistics
from genxfer.data.parts import Parts, divide
from genxfer.data.prepare import prepare
from genxfer.data.raw import AnySource, raw_digest
from genxfer.data.sources import RawImages, UndecodableError, open_source
from genxfer.data.split import check_split
from genxfer.errors import DataError

logger = logging.getLogger("genxfer.data")

SCHEMA = 2
_CHUNK = 8  # images per task of a thread: enough to hide the cost of a task, few enough to bound memory
_ROWS = 1024  # images copied together
_LISTED = 1000  # up to so many names stand in the manifest; beyond, only their digest

Outcome = tuple[NDArray[np.uint8], Facts] | UndecodableError


class _Decoded(NamedTuple):
    """The decodable images of one source, or of two one after the other."""

    names: list[str]
    facts: list[Facts]
    counts: list[int]  # per source
    rejects: list[dict[str, str]]
    pixels: NDArray[np.uint8]  # [N C H W], mapped from a temporary file


def pack_source(config: DatasetConfig, out_dir: Path) -> dict[str, Any]:
    """Write train.npy [N C H W] and manifest.json of the source domain into `out_dir`; return the manifest.

    Raises DataError on too many rejects or no image at all, StoreError on a full disk.
    """
    with _scratch(out_dir) as scratch:
        decoded = _decode_all(config, [config.source], scratch)
        facts = {"domain": "source", "kind": config.source.kind, "raw_digest": raw_digest(config.source)}
        parts = Parts({"train": list(range(len(decoded.names)))}, [], [])
        return _write(config, out_dir, decoded, parts, facts)


def pack_target(config: DatasetConfig, out_dir: Path, *, md5: str | None) -> dict[str, Any]:
    """Write train.npy, validation.npy, test.npy [N C H W] and manifest.json of the target domain; return the manifest.

    No image, nor a near-duplicate of it, is in two of them; validation.npy may hold none. `md5` is what DVC knows the
    raw folder by. Raises as `pack_source` does, and ParameterError where too few images are left to hold out.
    """
    target = config.target
    check_split(config)
    with _scratch(out_dir) as scratch:
        decoded = _decode_all(config, [target] if target.heldout is None else [target, target.heldout], scratch)
        parts = divide(config, decoded.names, decoded.counts[0], decoded.pixels)
        facts = {"domain": "target", "kind": target.kind, "raw_digest": raw_digest(target), "dvc_md5": md5}
        return _write(config, out_dir, decoded, parts, facts | {"split_seed": config.seed})


@contextmanager
def _scratch(out_dir: Path) -> Iterator[IO[bytes]]:
    """Yield a file without a name, which no kill can leave behind; tell a full disk as what it is."""
    out_dir.mkdir(parents=True, exist_ok=True)
    with needing_room("The packed images did not fit", out_dir), tempfile.TemporaryFile(dir=out_dir) as scratch:
        yield scratch


def _decode_all(config: DatasetConfig, sources: Sequence[AnySource], scratch: IO[bytes]) -> _Decoded:
    names: list[str] = []
    facts: list[Facts] = []
    rejects: list[dict[str, str]] = []
    counts = []
    for source in sources:
        images = open_source(source)
        before = len(names)
        for name, outcome in zip(images.names, _outcomes(images, config), strict=True):
            if isinstance(outcome, UndecodableError):
                rejects.append({"name": name, "reason": str(outcome)})
                continue
            scratch.write(outcome[0].data)
            names.append(name)
            facts.append(outcome[1])
        counts.append(len(names) - before)
        _check_enough(config, source, counts[-1], rejects)
    scratch.flush()
    shape = (len(names), config.channels, config.resolution_px, config.resolution_px)
    return _Decoded(names, facts, counts, rejects, np.memmap(scratch, np.uint8, "r", shape=shape))


def _outcomes(images: RawImages, config: DatasetConfig) -> Iterator[Outcome]:
    """Yield what became of each image, in order; files are read ahead by a few chunks per thread and no further."""
    workers = min(8, os.cpu_count() or 1)
    with ThreadPoolExecutor(workers, "genxfer-pack") as pool:
        pending: deque[Future[list[Outcome]]] = deque()
        for start in range(0, len(images), _CHUNK):
            loads = [_fetch(images, index) for index in range(start, min(start + _CHUNK, len(images)))]
            pending.append(pool.submit(_prepare_chunk, loads, config))
            if len(pending) > 2 * workers:
                yield from pending.popleft().result()
        for future in pending:
            yield from future.result()


def _fetch(images: RawImages, index: int) -> Callable[[], Image.Image] | UndecodableError:
    try:
        return images.fetch(index)
    except UndecodableError as reason:
        return reason


def _prepare_chunk(
    loads: Sequence[Callable[[], Image.Image] | UndecodableError], config: DatasetConfig
) -> list[Outcome]:
    outcomes: list[Outcome] = []
    for load in loads:
        try:
            if isinstance(load, UndecodableError):
                raise load
            outcomes.append(prepare(load(), config.resolution_px, config.channels))
        except UndecodableError as reason:
            outcomes.append(reason)
    return outcomes


def _check_enough(config: DatasetConfig, source: AnySource, count: int, rejects: list[dict[str, str]]) -> None:
    if len(rejects) > config.max_rejects:
        first = "; ".join(f"{reject['name']} ({reject['reason']})" for reject in rejects[:3])
        raise DataError(
            f"{len(rejects)} files of the {source.kind} could not be decoded, and dataset.max_rejects allows "
            f"{config.max_rejects}. The first: {first}. Repair or remove them, narrow the glob, or raise "
            f"dataset.max_rejects."
        )
    if count == 0:
        raise DataError(f"The {source.kind} has no images ({source!r}). Correct its path or its glob.")


def _write(
    config: DatasetConfig, out_dir: Path, decoded: _Decoded, parts: Parts, facts: dict[str, Any]
) -> dict[str, Any]:
    """Write the array of each part and the manifest, which comes last; return the manifest."""
    rows = parts.rows
    findings = parts.findings + examine(decoded.names, decoded.facts, decoded.pixels)
    for finding in findings:
        logger.info("%s: %d images (%s ...)", finding.check, finding.images, finding.examples[0])
    if decoded.rejects:
        logger.warning("%d files skipped, named in the manifest: %s", len(decoded.rejects), decoded.rejects[0])
    manifest = facts | {
        "schema": SCHEMA,
        "resolution_px": config.resolution_px,
        "channels": config.channels,
        "n": sum(map(len, rows.values())),
        "arrays": {name: _write_array(out_dir / f"{name}.npy", decoded, chosen) for name, chosen in rows.items()},
        "left_out": {"n": len(parts.left_out), "names": [decoded.names[i] for i in parts.left_out[:_LISTED]]},
        "rejects": decoded.rejects,
        "findings": [finding._asdict() for finding in findings],
    }
    write_json_atomic(out_dir / "manifest.json", manifest)
    return manifest


def _write_array(path: Path, decoded: _Decoded, rows: Sequence[int]) -> dict[str, Any]:
    """Write the images `rows` to the NumPy file `path`; return what the manifest says of it."""
    with path.open("wb") as file:
        shape = (len(rows), *decoded.pixels.shape[1:])
        np.lib.format.write_array_header_1_0(file, {"descr": "|u1", "fortran_order": False, "shape": shape})
        for start in range(0, len(rows), _ROWS):
            file.write(decoded.pixels[rows[start : start + _ROWS]].data)
    names = [decoded.names[index] for index in rows]
    entry = {"file": path.name, "n": len(rows), "sha256": digest_file(path)}
    entry |= {"names_sha256": digest_bytes("\n".join(names).encode()), "names": names[:_LISTED]}
    return entry | statistics(np.load(path, mmap_mode="r"))
