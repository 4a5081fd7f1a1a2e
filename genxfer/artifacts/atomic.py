"""A file that appears whole or not at all: written beside its destination, flushed to the disk, then renamed.

Every room that leaves a file behind writes it through here, so a killed process or a full disk tears nothing. Knows
nothing of what the files mean. The errors are the operating system's own (OSError): the caller knows what to advise.
"""

import contextlib
import fcntl
import json
import os
import secrets
import time
from pathlib import Path
from types import TracebackType
from typing import Any, Self

TEMPORARY_PREFIX = ".genxfer-"
TEMPORARY_SUFFIX = ".tmp"
# A temporary file is locked a moment after it is created; a younger one may still be on its way to its lock.
YOUNGEST_STALE_S = 60.0


class PendingFile:
    """A file in `folder` under a temporary name: it gets its own name by `commit`, or vanishes with the `with` block.

    `seal` comes first and does everything that needs room on the disk; what remains for `commit` is a rename. So
    several files can be sealed before the first of them becomes visible.
    """

    def __init__(self, folder: Path, mode: int = 0o666) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        self._path = folder / f"{TEMPORARY_PREFIX}{os.getpid()}-{secrets.token_hex(8)}{TEMPORARY_SUFFIX}"
        self._descriptor = os.open(self._path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, mode)
        self._pending = True
        # The lock dies with its writer and tells `sweep` who is gone. A file system without locks is only never swept.
        with contextlib.suppress(OSError):
            fcntl.flock(self._descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)

    def __enter__(self) -> Self:
        return self

    def write(self, data: bytes | memoryview) -> None:
        """Append `data`; raises OSError, for instance on a full disk."""
        rest = memoryview(data).cast("B")
        while rest:
            rest = rest[os.write(self._descriptor, rest) :]

    def seal(self) -> None:
        """Wait until the content is on the disk; raises OSError where the disk only now finds itself full."""
        os.fsync(self._descriptor)

    def commit(self, path: Path) -> None:
        """Give the sealed file the name `path`, on the same file system, replacing what was there."""
        os.replace(self._path, path)
        self._pending = False
        _sync_folder(path.parent)

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._pending:
            self._path.unlink(missing_ok=True)
        os.close(self._descriptor)


def write_atomic(path: Path, data: bytes, mode: int = 0o666) -> None:
    """Write `data` to `path` whole or not at all, making its folder; raises OSError and leaves what was there."""
    with PendingFile(path.parent, mode) as pending:
        pending.write(data)
        pending.seal()
        pending.commit(path)


def flush(path: Path) -> None:
    """Wait until what was appended to `path`, if it is there, is on the disk; raises OSError."""
    if not path.exists():
        return
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def json_bytes(content: Any) -> bytes:
    """Return `content` as JSON for people and for diffs: sorted keys, two spaces; raises ValueError on NaN."""
    return (json.dumps(content, sort_keys=True, indent=2, ensure_ascii=False, allow_nan=False) + "\n").encode()


def write_json_atomic(path: Path, content: Any) -> None:
    """Write `content` to `path` as sorted, indented JSON, whole or not at all; raises OSError."""
    write_atomic(path, json_bytes(content))


def is_temporary(name: str) -> bool:
    """Whether `name` is that of a file which has not got its own name yet."""
    return name.startswith(TEMPORARY_PREFIX) and name.endswith(TEMPORARY_SUFFIX)


def sweep(folder: Path) -> int:
    """Remove from `folder` the temporary files whose writer died; return how many. Those of living writers stay."""
    removed = 0
    for path in folder.glob(f"{TEMPORARY_PREFIX}*{TEMPORARY_SUFFIX}"):
        with contextlib.suppress(OSError):  # another sweeper was faster, the writer lives, or it is not ours to remove
            if time.time() - path.stat().st_mtime < YOUNGEST_STALE_S:
                continue
            descriptor = os.open(path, os.O_RDONLY)
            try:
                fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
                path.unlink()
                removed += 1
            finally:
                os.close(descriptor)
    return removed


def _sync_folder(folder: Path) -> None:
    """Make a rename in `folder` outlive a power cut."""
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
