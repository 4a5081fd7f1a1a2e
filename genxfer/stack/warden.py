"""The parent of the supervisor, which sees to it that nothing is left when that one is killed.

python -m genxfer.stack.warden PROJECT, detached from the terminal. The two end together: the supervisor stops the stack
when the warden is gone, the warden ends what is left when the supervisor is. Besides it is the parent of every orphan
below it, and buries them.
"""

import contextlib
import ctypes
import os
import signal
import subprocess
import sys
from pathlib import Path

from genxfer.launch.lifeline import as_parent
from genxfer.stack.processes import PART_VARIABLE, end_leftovers
from genxfer.stack.settings import STACK

PR_SET_CHILD_SUBREAPER = 36  # prctl(2)


def main(project: Path) -> None:
    """Run the supervisor of a project until it ends, then end what it left."""
    ctypes.CDLL(None, use_errno=True).prctl(PR_SET_CHILD_SUBREAPER, 1)
    command = [sys.executable, "-m", "genxfer.stack.supervisor", str(project)]
    supervisor = subprocess.Popen(command, env=as_parent() | {PART_VARIABLE: "supervisor"})
    for number in (signal.SIGTERM, signal.SIGINT):  # until now they end us, and with us the supervisor
        signal.signal(number, lambda number, frame: os.kill(supervisor.pid, signal.SIGTERM))
    while os.wait()[0] != supervisor.pid:
        pass
    end_leftovers(project / STACK)
    with contextlib.suppress(ChildProcessError):
        while os.waitpid(-1, os.WNOHANG)[0]:
            pass


if __name__ == "__main__":
    main(Path(sys.argv[1]))
