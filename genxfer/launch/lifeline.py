"""How a process ends with its parent, so that no `kill -9` further up leaves it alone.

Standard library only: the supervisor, and Prefect's embedded server, must start at once.
"""

import ctypes
import os
import select
import signal
import sys
import threading

PARENT_VARIABLE = "GENXFER_PARENT_PID"  # who the parent was when it started the process
PR_SET_PDEATHSIG = 1  # prctl(2)


def die_with_parent() -> None:
    """Be killed (on Linux) when the thread that started this process ends; at once when it is gone already."""
    if sys.platform == "linux":
        ctypes.CDLL(None, use_errno=True).prctl(PR_SET_PDEATHSIG, signal.SIGKILL)
    expected = os.environ.get(PARENT_VARIABLE)
    if expected is not None and os.getppid() != int(expected):
        os.kill(os.getpid(), signal.SIGKILL)


def as_parent() -> dict[str, str]:
    """Return this process's environment for a child that calls `die_with_parent`."""
    return os.environ | {PARENT_VARIABLE: str(os.getpid())}


def stop_with_parent() -> None:
    """Be sent SIGTERM, once, when the parent process ends, whichever of its threads started this one. Linux only."""
    parent = os.getppid()
    ended = os.pidfd_open(parent)
    if os.getppid() != parent:
        os.kill(os.getpid(), signal.SIGTERM)
    threading.Thread(target=_stop_after, args=(ended,), name="stop-with-parent", daemon=True).start()


def _stop_after(ended: int) -> None:
    """Wait for the end of the process behind a pidfd, then send ourselves SIGTERM."""
    poll = select.poll()
    poll.register(ended, select.POLLIN)
    poll.poll()
    os.kill(os.getpid(), signal.SIGTERM)
