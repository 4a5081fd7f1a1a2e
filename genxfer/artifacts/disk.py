"""What the stores do alike on the disk of this machine: copy, export, and say what went wrong.

Stands between `atomic.py` and the stores; knows neither where objects lie nor what a stage does.
"""

import contextlib
import errno
import hashlib
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

from genxfer.artifacts.atomic import PendingFile
from genxfer.artifacts.fingerprint import digest_file
from genxfer.artifacts.record import ObjectRef, Record
from genxfer.errors import StoreError

COPY_CHUNK_BYTES = 1 << 20


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
        with explaining(f"Output {name!r} of stage {record.stage!r} could not be written", folder):
            if target.is_file() and target.stat().st_size == ref.size_bytes and digest_file(target) == ref.digest:
                continue
            with PendingFile(target.parent) as pending:
                copy_into(pending, read(ref))
                pending.seal()
                pending.commit(target)


@contextlib.contextmanager
def explaining(failure: str, folder: Path, setting: str = "GENXFER_STORE") -> Iterator[None]:
    """Turn an OSError into a StoreError that says what failed, where, why, and what to do.

    `setting` is the variable that moves `folder` elsewhere.
    """
    try:
        yield
    except OSError as error:
        if error.errno in (errno.ENOSPC, errno.EDQUOT):
            advice = f"No space is left on the disk of {folder}: free some, or set {setting} to a folder with room."
        elif error.errno in (errno.EACCES, errno.EPERM, errno.EROFS):
            advice = f"{folder} may not be written by this user: change its permissions, or set {setting}."
        else:
            advice = f"{error.strerror or error} ({error.filename or folder})."
        raise StoreError(f"{failure}. {advice}") from error
