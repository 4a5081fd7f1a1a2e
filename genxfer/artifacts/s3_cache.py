"""A read-through cache of objects in a local folder, of a limited size, shared by any number of processes.

    objects/ab/cdef...      files named by their sha256, as in the store
    users/<pid>-<token>     held and written by each living process: the objects that it has been given paths of

The least recently used object goes first, and never one that a living process was given: whoever makes room reads
`users/`, of which the dead hold no lock. Knows nothing of where objects come from. Raises OSError.
"""

import contextlib
import fcntl
import hashlib
import logging
import os
import re
import secrets
import weakref
from collections.abc import Callable, Iterator
from pathlib import Path

from genxfer.artifacts.atomic import PendingFile, sweep
from genxfer.artifacts.disk import copy_into
from genxfer.artifacts.fingerprint import digest_file
from genxfer.artifacts.lock import exclusive
from genxfer.artifacts.record import ObjectRef
from genxfer.errors import StoreError

_UNITS = {"": 1, "KB": 10**3, "MB": 10**6, "GB": 10**9, "TB": 10**12}
_UNITS |= {"KIB": 1 << 10, "MIB": 1 << 20, "GIB": 1 << 30, "TIB": 1 << 40}

logger = logging.getLogger("genxfer.artifacts")


def parse_bytes(text: str) -> int:
    """Return the bytes that `text` means, such as "20GB", "512 MiB" or "1000000"; raises StoreError."""
    match = re.fullmatch(r"\s*(\d+(?:\.\d+)?)\s*([a-zA-Z]*)\s*", text)
    if match is None or match[2].upper() not in _UNITS:
        raise StoreError(
            f"GENXFER_CACHE_BYTES is {text!r}; allowed: a number with or without a unit of "
            f"{', '.join(unit for unit in _UNITS if unit)}, such as 20GB."
        )
    return int(float(match[1]) * _UNITS[match[2].upper()])


class DamagedError(Exception):
    """What was fetched is not what it was to be."""


class ObjectCache:
    """The cache in `folder`; what it gives away stays at least until this instance is gone."""

    def __init__(self, folder: Path, limit_bytes: int) -> None:
        self.folder = folder
        self._objects = folder / "objects"
        self._limit_bytes = limit_bytes
        self._in_use: set[str] = set()
        self._own_descriptor: int | None = None

    def find(self, ref: ObjectRef) -> Path | None:
        """Return the path of a verified object, None if it is not there; a damaged one is removed."""
        path = self._path(ref.digest)
        if not path.exists():
            return None
        self._use(ref)
        with contextlib.suppress(FileNotFoundError):
            if path.stat().st_size == ref.size_bytes and digest_file(path) == ref.digest:
                with contextlib.suppress(PermissionError):  # another user's
                    os.utime(path)
                return path
            logger.warning("the cached object %s is damaged: it is fetched again", path)
            path.unlink(missing_ok=True)
        return None

    def fill(self, ref: ObjectRef, fetch: Callable[[Callable[[bytes], None]], None]) -> Path:
        """Return the path of an object that `fetch` writes; raises DamagedError when that has another digest."""
        self._make_room(ref.size_bytes)
        self._use(ref)
        content = hashlib.sha256()
        with PendingFile(self._objects, mode=0o444) as pending:

            def write(data: bytes) -> None:
                content.update(data)
                pending.write(data)

            fetch(write)
            if content.hexdigest() != ref.digest:
                raise DamagedError(ref.digest)
            return self._keep(ref, pending)

    def add(self, source: Path) -> ObjectRef:
        """Copy a file in, and return what it is named by."""
        self._make_room(source.stat().st_size)
        with PendingFile(self._objects, mode=0o444) as pending:
            ref = copy_into(pending, source)
            self._use(ref)
            self._keep(ref, pending)
        return ref

    def path(self, ref: ObjectRef) -> Path:
        """Return where the object lies that was added or filled in."""
        return self._path(ref.digest)

    def _keep(self, ref: ObjectRef, pending: PendingFile) -> Path:
        path = self._path(ref.digest)
        path.parent.mkdir(parents=True, exist_ok=True)
        pending.seal()
        pending.commit(path)
        return path

    def _make_room(self, size_bytes: int) -> None:
        """Remove the least recently used objects until `size_bytes` more are within the limit."""
        sweep(self._objects)
        with exclusive(self.folder / "lock"):
            files = sorted(self._files())
            excess_bytes = sum(size for _, size, _ in files) + size_bytes - self._limit_bytes
            if excess_bytes <= 0:
                return
            in_use = self._used_by_the_living()
            for _, size, path in files:
                if excess_bytes > 0 and path.parent.name + path.name not in in_use:
                    path.unlink(missing_ok=True)
                    excess_bytes -= size
        if excess_bytes > 0:
            logger.debug("the cache %s is %d bytes over its limit: all else is in use", self.folder, excess_bytes)

    def _files(self) -> Iterator[tuple[float, int, Path]]:
        """Yield time of last use, size and path of each object; a damaged one may be removed by others meanwhile."""
        for path in self._objects.glob("??/*"):
            with contextlib.suppress(FileNotFoundError):
                status = path.stat()
                yield status.st_mtime, status.st_size, path

    def _use(self, ref: ObjectRef) -> None:
        """Say that this process uses the object, so that nobody removes it."""
        if ref.digest in self._in_use:
            return
        with exclusive(self.folder / "lock"):
            os.write(self._descriptor(), f"{ref.digest}\n".encode())
        self._in_use.add(ref.digest)

    def _descriptor(self) -> int:
        """Return the descriptor of this instance's file in users/, which it holds while it lives."""
        if self._own_descriptor is None:
            path = self.folder / "users" / f"{os.getpid()}-{secrets.token_hex(8)}"
            path.parent.mkdir(parents=True, exist_ok=True)
            self._own_descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_APPEND, 0o666)
            fcntl.flock(self._own_descriptor, fcntl.LOCK_EX)
            weakref.finalize(self, _leave, path, self._own_descriptor, os.getpid())
        return self._own_descriptor

    def _used_by_the_living(self) -> set[str]:
        digests: set[str] = set()
        for path in (self.folder / "users").glob("*-*"):
            with contextlib.suppress(FileNotFoundError):  # its process has just left
                descriptor = os.open(path, os.O_RDONLY)
                try:
                    fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
                    path.unlink()
                except BlockingIOError:
                    digests |= set(path.read_text().split())
                finally:
                    os.close(descriptor)
        return digests

    def _path(self, digest: str) -> Path:
        return self._objects / digest[:2] / digest[2:]


def _leave(path: Path, descriptor: int, pid: int) -> None:
    """Let go of what the process used; a forked child leaves its parent's file alone."""
    os.close(descriptor)
    if os.getpid() == pid:
        path.unlink(missing_ok=True)
