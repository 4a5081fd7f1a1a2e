"""What the stores do alike on the disk of this machine: copy, export, keep unfinished work, and say what went wrong.

Stands between `atomic.py` and the stores; knows neither where objects lie nor what a stage does.
"""

import contextlib
import errno
import hashlib
import os
import re
import shutil
import stat
import time
from collections.abc import Callable, Container, Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from genxfer.artifacts.atomic import TEMPORARY_PREFIX, PendingFile, sweep, write_json_atomic
from genxfer.artifacts.fingerprint import digest_file
from genxfer.artifacts.record import DOCUMENT, ObjectRef, Record, UnfinishedWork
from genxfer.errors import GenxferError, StoreError

COPY_CHUNK_BYTES = 1 << 20
NO_ROOM = (errno.ENOSPC, errno.EDQUOT)
NO_PERMISSION = (errno.EACCES, errno.EPERM, errno.EROFS)
FINGERPRINT = re.compile(r"[0-9a-f]{64}")


def copy_into(target: PendingFile, source: Path) -> ObjectRef:
    """Append the content of `source` to `target` and return what was copied; raises OSError."""
    content, size_bytes = hashlib.sha256(), 0
    with source.open("rb") as file:
        while chunk := file.read(COPY_CHUNK_BYTES):
            content.update(chunk)
            size_bytes += len(chunk)
            target.write(chunk)
    return ObjectRef(content.hexdigest(), size_bytes)


def export_outputs(
    read: Callable[[ObjectRef], Path], record: Record, folder: Path, names: Sequence[str] | None = None
) -> None:
    """Copy the outputs `names` (all by default) into `folder`, each atomically; equal files are left alone.

    `read` gives the path of a verified object. Raises what it raises, and StoreError where a file cannot be written.
    """
    for name in record.outputs if names is None else names:
        ref, target = record.outputs[name], folder / name
        with explaining(f"Output {name!r} of stage {record.stage!r} could not be written", folder, setting=None):
            if target.is_file() and target.stat().st_size == ref.size_bytes and digest_file(target) == ref.digest:
                continue
            with PendingFile(target.parent) as pending:
                copy_into(pending, read(ref))
                pending.seal()
                pending.commit(target)


def keep_only(folder: Path, names: Container[str]) -> None:
    """Remove the files below `folder` but those `names`, and the folders that are empty then; raises OSError.

    What another process is about to name stays: it is writing here as well.
    """
    sweep(folder)
    for path in sorted(folder.rglob("*"), reverse=True):  # what lies in a folder comes before it
        if path.is_dir() and not path.is_symlink():
            with contextlib.suppress(OSError):  # something in it stays
                path.rmdir()
        elif path.relative_to(folder).as_posix() not in names and not path.name.startswith(TEMPORARY_PREFIX):
            path.unlink(missing_ok=True)


def listed(folder: Path, depth: int) -> Iterator[Path]:
    """Yield what lies `depth` levels below `folder`; raises OSError where `Path.glob` would be silent of it."""
    try:
        entries = sorted(os.scandir(folder), key=lambda entry: entry.name)
    except FileNotFoundError:
        return
    for entry in entries:
        if depth == 1:
            yield Path(entry.path)
        elif entry.is_dir():
            yield from listed(Path(entry.path), depth - 1)


@contextlib.contextmanager
def explaining(failure: str, folder: Path, setting: str | None = "GENXFER_STORE") -> Iterator[None]:
    """Turn an OSError into a StoreError that says what failed, where, why, and what to do.

    `setting` is the variable that moves `folder` elsewhere, None for what lies in the folder where genxfer runs.
    """
    elsewhere = f"set {setting}" if setting else "run genxfer in another folder"
    with_room = f"set {setting} to a folder with room" if setting else "run genxfer in a folder on a disk with room"
    try:
        yield
    except OSError as error:
        if error.errno in NO_ROOM:
            advice = f"No space is left on the disk of {folder}: free some, or {with_room}."
        elif error.errno in NO_PERMISSION:
            advice = f"{folder} may not be written by this user: change its permissions, or {elsewhere}."
        else:
            advice = f"{error.strerror or error} ({error.filename or folder})."
        raise StoreError(f"{failure}. {advice}") from error


@contextlib.contextmanager
def permitted(failure: str, kind: type[GenxferError]) -> Iterator[None]:
    """Turn an OSError of a missing permission into one of `kind` that names the path, and no other."""
    try:
        yield
    except OSError as error:
        if error.errno not in NO_PERMISSION:
            raise
        raise kind(
            f"{failure}: this user has no permission for {error.filename} ({error.strerror}). Change its permissions, "
            "or name another place."
        ) from error


@contextlib.contextmanager
def needing_room(failure: str, folder: Path) -> Iterator[None]:
    """Turn an OSError of a full disk into a StoreError, and no other: what is within does more than write files."""
    try:
        yield
    except OSError as error:
        if error.errno not in NO_ROOM:
            raise
        raise StoreError(
            f"{failure}. No space is left on the disk of {folder}: free some, then run the same command again."
        ) from error


class WorkOnDisk:
    """The unfinished work of a store, in the folders `work`/<stage>/<fingerprint>; each store is one of these.

    Complaints name the folder `place`, and `setting`, the variable that moves it elsewhere.
    """

    def __init__(self, work: Path, place: Path, setting: str) -> None:
        self.work = work
        self._place, self._setting = place, setting

    def work_dir(self, stage: str, fp: str, document: Mapping[str, Any] | None = None) -> Path:
        """Return the folder for the unfinished work of `fp`, made if missing; what a killed run left is still there.

        `document`, which `fp` is the hash of, is written there: what it names must not be removed meanwhile.
        """
        folder = self.work / stage / fp
        with explaining(f"Stage {stage!r} could not begin its work", self._place, self._setting):
            folder.mkdir(parents=True, exist_ok=True)
            if document is not None:
                write_json_atomic(folder / DOCUMENT, dict(document))
        return folder

    def discard_work(self, stage: str, fp: str) -> None:
        """Remove the unfinished work of `fp`."""
        with (
            explaining(f"The finished work of stage {stage!r} could not be removed", self._place, self._setting),
            contextlib.suppress(FileNotFoundError),
        ):
            shutil.rmtree(self.work / stage / fp)

    def unfinished(self) -> list[UnfinishedWork]:
        """Return the unfinished work that lies on this machine."""
        with explaining("The unfinished work could not be listed", self._place, self._setting):
            return _unfinished_in(self.work)


def advice(ref: ObjectRef, records: Iterable[Record]) -> str:
    """Return which stages made the object, of those in `records`, and have to run again."""
    made_by = sorted({record.stage for record in records if ref in record.outputs.values()})
    return f"Run {' and '.join(made_by) or 'the stage that made it'} again: it will be made anew."


def _unfinished_in(work: Path) -> list[UnfinishedWork]:
    """Return the unfinished work in the folders `work`/<stage>/<fingerprint>; raises OSError."""
    found = []
    for folder in sorted(path for path in listed(work, depth=2) if path.is_dir() and FINGERPRINT.fullmatch(path.name)):
        try:
            status = [path.stat() for path in (folder, *folder.rglob("*"))]
        except FileNotFoundError:  # it is being worked on, or was finished just now
            continue
        size_bytes = sum(one.st_size for one in status if stat.S_ISREG(one.st_mode))
        age_s = time.time() - max(one.st_mtime for one in status)
        found.append(UnfinishedWork(folder.parent.name, folder.name, folder, size_bytes, age_s))
    return found
