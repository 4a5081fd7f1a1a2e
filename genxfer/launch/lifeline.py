"""A process that asks the kernel to die with its parent, so that no `kill -9` further up leaves it alone.

Standard library only: the supervisor must start at once.
"""

import ctypes
import os
import signal

PARENT_VARIABLE = "GENXFER_PARENT_PID"  # who the parent was when it started the process
PR_SET_PDEATHSIG = 1  # prctl(2)


def die_with_parent() -> None:
    """Be killed when the thread that started this process ends; at once when it is gone already. Linux only."""
    ctypes.CDLL(None, use_errno=True).prctl(PR_SET_PDEATHSIG, signal.SIGKILL)
    expected = os.environ.get(PARENT_VARIABLE)
    if expected is not None and os.getppid() != int(expected):
        os.kill(os.getpid(), signal.SIGKILL)


def as_parent() -> dict[str, str]:
    """Return this process's environment for a child that calls `die_with_parent`."""
    return os.environ | {PARENT_VARIABLE: str(os.getpid())}
