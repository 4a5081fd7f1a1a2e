"""From what a stage depends on to the one hash that names its result, and back to what changed between two of them.

A fingerprint is the sha256 of a document: schema, stage, the stage's own parameters, the digests of its inputs, of the
code it runs (`closure.py`) and the library versions that matter. Knows nothing of where results are kept or of what
the parameters mean; what cannot change a result must not be put in by the caller.
"""

import enum
import hashlib
import json
import logging
import math
import os
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from genxfer.artifacts.atomic import is_temporary, write_json_atomic

SCHEMA = 1

# A file written in the same tick of the clock as it was digested could change again unseen, so digests of files younger
# than this are not cached.
YOUNGEST_CACHED_S = 2.0

logger = logging.getLogger("genxfer.artifacts")

ChangeKind = Literal["parameter", "input", "source file", "library", "schema"]
_SECTIONS: dict[str, ChangeKind] = {
    "params": "parameter",
    "inputs": "input",
    "code": "source file",
    "libraries": "library",
}


class Missing(enum.Enum):
    """The value of a name that one of two documents does not have; None is a value of its own."""

    MISSING = "missing"

    def __str__(self) -> str:
        return "(not there)"


MISSING = Missing.MISSING


@dataclass(frozen=True)
class Change:
    """One difference between two fingerprint documents; `old` or `new` is MISSING where a name came or went."""

    kind: ChangeKind
    name: str  # dotted for parameters, "genxfer.models.dcgan:DCGAN" for a source file
    old: Any
    new: Any


def canonical_json(content: Any) -> str:
    """Return the one JSON text of `content`: sorted keys, no spaces, ASCII; 1, 1.0 and true stay different.

    Raises TypeError on NaN, infinity, keys that are not strings, and anything JSON has no word for.
    """
    _check_plain(content, "the document")
    return json.dumps(content, sort_keys=True, separators=(",", ":"), allow_nan=False)


def _check_plain(content: Any, place: str) -> None:
    if isinstance(content, dict):
        for key, value in content.items():
            if not isinstance(key, str):
                raise TypeError(f"{place} has the key {key!r}: only strings can be keys")
            _check_plain(value, f"{place}.{key}")
    elif isinstance(content, list | tuple):
        for index, value in enumerate(content):
            _check_plain(value, f"{place}[{index}]")
    elif isinstance(content, float) and not math.isfinite(content):
        raise TypeError(f"{place} is {content!r}: only finite numbers have a canonical form")
    elif content is not None and not isinstance(content, str | int | float):
        raise TypeError(
            f"{place} is a {type(content).__name__}: only dict, list, str, int, float, bool and None are plain"
        )


def digest_bytes(data: bytes) -> str:
    """Return the sha256 of `data` as 64 hex digits."""
    return hashlib.sha256(data).hexdigest()


def digest_file(path: Path) -> str:
    """Return the sha256 of the file's content as 64 hex digits; raises OSError."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def digest_tree(folder: Path, cache: Path | None = None) -> str:
    """Return the sha256 over the sorted (relative path, content digest) of all files under `folder`; raises OSError.

    Our own temporary files are passed over: another process may be about to name them, or has just done so.
    `cache` is a JSON file that spares reading files whose size, times and inode are as they were; keep it elsewhere.
    """
    started_ns = time.time_ns()
    known = _read_cache(cache)
    current: dict[str, list[Any]] = {}
    for path in _files(folder):
        status = path.stat()
        signature = [status.st_size, status.st_mtime_ns, status.st_ctime_ns, status.st_ino]
        name = path.relative_to(folder).as_posix()
        old = known.get(name)
        digest = old[-1] if old is not None and old[:-1] == signature else digest_file(path)
        current[name] = [*signature, digest]
    if cache is not None:
        youngest_ns = started_ns - int(YOUNGEST_CACHED_S * 1e9)
        _write_cache(cache, {name: entry for name, entry in current.items() if max(entry[1:3]) < youngest_ns}, known)
    return digest_bytes(canonical_json(sorted([name, entry[-1]] for name, entry in current.items())).encode())


def _files(folder: Path) -> Iterator[Path]:
    """Yield all files under `folder`, through links to folders too, but never twice through the same folder."""

    def fail(error: OSError) -> None:
        raise error  # os.walk would take a folder that is not there for an empty one

    visited: set[tuple[int, int]] = set()
    for parent, folders, names in os.walk(folder, onerror=fail, followlinks=True):
        status = os.stat(parent)
        if (status.st_dev, status.st_ino) in visited:
            folders.clear()
            continue
        visited.add((status.st_dev, status.st_ino))
        folders.sort()
        yield from (Path(parent, name) for name in sorted(names) if not is_temporary(name))


def _read_cache(cache: Path | None) -> dict[str, list[Any]]:
    try:
        entries = json.loads(cache.read_bytes()) if cache is not None else {}
    except (OSError, ValueError):
        return {}
    return entries if isinstance(entries, dict) else {}


def _write_cache(cache: Path, entries: dict[str, list[Any]], known: dict[str, list[Any]]) -> None:
    if entries == known:
        return
    try:
        write_json_atomic(cache, entries)
    except OSError as error:  # the digest is right without it
        logger.warning("the digest cache %s could not be written: %s", cache, error.strerror)


def build_document(
    *,
    stage: str,
    params: Mapping[str, Any],
    inputs: Mapping[str, str],
    code: Mapping[str, str],
    libraries: Mapping[str, str],
) -> dict[str, Any]:
    """Return the fingerprint document: parameters, input digests, code digests, library versions by name."""
    return {
        "schema": SCHEMA,
        "stage": stage,
        "params": dict(params),
        "inputs": dict(inputs),
        "code": dict(code),
        "libraries": dict(libraries),
    }


def fingerprint(document: Mapping[str, Any]) -> str:
    """Return the sha256 of the document's canonical JSON as 64 hex digits; raises what `canonical_json` raises."""
    return digest_bytes(canonical_json(dict(document)).encode())


def differences(old: Mapping[str, Any], new: Mapping[str, Any]) -> list[Change]:
    """Return what changed between two documents; empty exactly when their fingerprints are equal."""
    changes: list[Change] = []
    for section in sorted(old.keys() | new.keys(), key=lambda name: (name in _SECTIONS, name != "params", name)):
        kind = _SECTIONS.get(section, "schema")
        prefix = "" if section in _SECTIONS else section
        changes += _compare(kind, prefix, old.get(section, MISSING), new.get(section, MISSING))
    return changes


def _compare(kind: ChangeKind, name: str, old: Any, new: Any) -> Iterator[Change]:
    if _same(old, new):
        return
    # A name that came or went with a whole group under it is told by its leaves, as the user wrote them.
    old_group, new_group = ({} if value is MISSING else value for value in (old, new))
    if isinstance(old_group, dict) and isinstance(new_group, dict) and (old_group or new_group):
        for key in sorted(old_group.keys() | new_group.keys()):
            dotted = f"{name}.{key}" if name else key
            yield from _compare(kind, dotted, old_group.get(key, MISSING), new_group.get(key, MISSING))
    else:
        yield Change(kind, name, old, new)


def _same(old: Any, new: Any) -> bool:
    """Whether both have one canonical JSON: to Python 1, 1.0 and True are equal, to a fingerprint they are not."""
    if old is MISSING or new is MISSING:
        return old is new
    return canonical_json(old) == canonical_json(new)
