"""Where a verb puts what a user asked for with -o: checked before anything slow, and there whole or not at all."""

import errno
import os
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from genxfer.artifacts.atomic import TEMPORARY_PREFIX
from genxfer.errors import ParameterError


def check_place(output: Path) -> None:
    """Raise ParameterError where nothing can be written at `output`, before anything slow is done for it."""
    with writing(output):
        folder = next(parent for parent in output.parents if parent.exists())
        if not folder.is_dir():
            raise NotADirectoryError(errno.ENOTDIR, os.strerror(errno.ENOTDIR), str(folder))
        if not os.access(folder, os.W_OK | os.X_OK):
            raise PermissionError(errno.EACCES, os.strerror(errno.EACCES), str(folder))


def check_free(folder: Path) -> None:
    """Raise ParameterError when `folder` is there and not empty: old files among new ones would pass for new."""
    if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
        raise ParameterError(
            f"-o is {str(folder)!r}, which is there already and not an empty folder; name another one."
        )


@contextmanager
def whole_folder(folder: Path) -> Iterator[Path]:
    """Yield an empty folder that becomes `folder` when all is written, and is gone when that fails."""
    folder.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix=TEMPORARY_PREFIX, dir=folder.parent) as temporary:
        unfinished = Path(temporary) / "unfinished"
        unfinished.mkdir()
        yield unfinished
        os.replace(unfinished, folder)  # an empty folder may be in its place


@contextmanager
def writing(output: Path) -> Iterator[None]:
    """Turn the failure to write `output` into a ParameterError that says why."""
    try:
        yield
    except OSError as error:
        why = f"{error.strerror}, {error.filename}" if error.strerror and error.filename else error
        raise ParameterError(f"-o is {str(output)!r}, which cannot be written: {why}.") from error
