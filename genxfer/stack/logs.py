"""The log files of the parts: appended to by the programs themselves, and kept from growing without end."""

from pathlib import Path
from typing import IO

from genxfer.artifacts.atomic import PendingFile

MOST_BYTES = 10_000_000  # of a log; as much again of what was before, in NAME.log.1
LAST_LINES = 15


def append_to(log: Path) -> IO[bytes]:
    """Open a log for a program to append to."""
    log.parent.mkdir(parents=True, exist_ok=True)
    return log.open("ab")


def bound(log: Path, most_bytes: int = MOST_BYTES) -> None:
    """Move what a log holds to NAME.log.1 when it is long; the program goes on writing to the same, emptied file."""
    try:
        if log.stat().st_size <= most_bytes:
            return
        with log.open("r+b") as file, PendingFile(log.parent) as copy:
            while piece := file.read(1 << 20):
                copy.write(piece)
            copy.seal()
            copy.commit(log.with_name(f"{log.name}.1"))
            file.truncate(0)
    except OSError:
        return  # a full disk: the next look may find room


def last_lines(log: Path, count: int = LAST_LINES) -> list[str]:
    """Return the last lines of a log, none when there is no log."""
    try:
        with log.open("rb") as file:
            file.seek(max(0, file.seek(0, 2) - 20_000))
            return file.read().decode(errors="replace").splitlines()[-count:]
    except OSError:
        return []
