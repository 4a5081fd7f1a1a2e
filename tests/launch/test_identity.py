"""A process that was written down is found again, and no other is taken for it."""

import os
import subprocess
from dataclasses import replace

from genxfer.launch.identity import Identity


def test_an_identity_is_more_than_a_number() -> None:
    identity = Identity.of(os.getpid())
    assert identity is not None
    assert identity.alive()
    assert not replace(identity, started=identity.started + 1).alive()
    assert not replace(identity, boot="another").alive()
    ended = subprocess.Popen(["true"])
    os.waitid(os.P_PID, ended.pid, os.WEXITED | os.WNOWAIT)
    assert Identity.of(ended.pid) is None  # what is left of it is no process
    ended.wait()
