"""Which processes belong to a stack, and how they end.

Every process of a stack, and all that it starts, carries the stack's folder in its environment, so the process table
itself says who belongs to it, whatever became of parents, sessions and files of process ids.
"""

import contextlib
import os
import signal
import time
from collections.abc import Iterable
from pathlib import Path

import psutil

from genxfer.launch.identity import Identity

STACK_VARIABLE = "GENXFER_STACK"  # the stack's folder
PART_VARIABLE = "GENXFER_STACK_PART"  # which part of it
WORKER = "worker"
END_LIMIT_S = 20.0  # a flow writes its checkpoint and tells Prefect how it ended
POLL_S = 0.1


def members(folder: Path, part: str | None = None) -> list[psutil.Process]:
    """Return the processes of the stack in `folder`, or of one part of it, with all their descendants but ourselves."""
    found = {process.pid: process for process in psutil.process_iter() if _belongs(process, str(folder), part)}
    for process in list(found.values()):  # PostgreSQL's processes write their titles over their environment
        with contextlib.suppress(psutil.Error):
            found |= {child.pid: child for child in process.children(recursive=True)}
    return [process for process in found.values() if process.pid != os.getpid() and Identity.of(process.pid)]


def _belongs(process: psutil.Process, folder: str, part: str | None) -> bool:
    try:
        environment = process.environ()
    except (psutil.Error, OSError):
        return False
    return environment.get(STACK_VARIABLE) == folder and part in (None, environment.get(PART_VARIABLE))


def send(processes: Iterable[psutil.Process], number: int) -> None:
    """Send a signal to each that is still there."""
    for process in processes:
        with contextlib.suppress(psutil.Error):
            process.send_signal(number)


def end_leftovers(folder: Path, part: str | None = None) -> None:
    """End what is left of a stack, or of one part, whose head is gone; return when nothing is.

    What a worker started notices that it is gone, and ends by itself; a second signal would disturb its last words.
    """
    own_end = {process.pid for process in members(folder, WORKER)}
    send((process for process in members(folder, part) if process.pid not in own_end), signal.SIGTERM)
    if not _gone(folder, part, END_LIMIT_S):
        _kill(folder, part)


def _gone(folder: Path, part: str | None, limit_s: float) -> bool:
    deadline = time.monotonic() + limit_s
    while members(folder, part):
        if time.monotonic() > deadline:
            return False
        time.sleep(POLL_S)
    return True


def _kill(folder: Path, part: str | None) -> None:
    """Kill, until nothing is left: what starts meanwhile too."""
    while left := members(folder, part):
        send(left, signal.SIGKILL)
        psutil.wait_procs(left, timeout=1.0)
