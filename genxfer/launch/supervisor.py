"""Run a command that ends when our parent does: python -m genxfer.launch.supervisor COMMAND...

The parent holds the other end of our standard input and writes nothing to it. When that end closes, because the parent
wants it, was killed or crashed, the command gets SIGTERM, time to write its checkpoint, and SIGKILL. Signals of a
terminal or of an orchestrator are for the parent to answer; here they are let pass.
"""

import os
import select
import signal
import subprocess
import sys

from genxfer.launch.lifeline import as_parent

GRACE_S = 15.0  # torch elastic waits 10 s for its ranks


def main() -> int:
    """Run the command of the command line and return its exit code."""
    for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP):
        signal.signal(number, lambda number, frame: None)  # not SIG_IGN, which the command would inherit
    command = subprocess.Popen(sys.argv[1:], stdin=subprocess.DEVNULL, start_new_session=True, env=as_parent())
    if _parent_ends_first(command.pid):
        command.terminate()
        try:
            command.wait(GRACE_S)
        except subprocess.TimeoutExpired:
            command.kill()  # the ranks die with it
    code = command.wait()
    return code if code >= 0 else 128 - code


def _parent_ends_first(pid: int) -> bool:
    """Wait until standard input closes or process `pid` ends; return whether it was the former."""
    poll = select.poll()
    ended = os.pidfd_open(pid)
    poll.register(ended, select.POLLIN)
    poll.register(0, select.POLLIN | select.POLLHUP)
    return ended not in dict(poll.poll())


if __name__ == "__main__":
    sys.exit(main())
