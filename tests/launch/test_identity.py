"""A process that was written down is found again, and no other is taken for it."""

import os
import subprocess
from dataclasses import replace
from pathlib import Path

import pytest

from genxfer.launch import identity
from genxfer.launch.identity import Identity


def test_an_identity_is_more_than_a_number() -> None:
    this = Identity.of(os.getpid())
    assert this is not None
    assert this.alive()
    assert not replace(this, started=this.started + 1).alive()
    assert not replace(this, boot="another").alive()
    ended = subprocess.Popen(["true"])
    os.waitid(os.P_PID, ended.pid, os.WEXITED | os.WNOWAIT)
    assert Identity.of(ended.pid) is None  # what is left of it is no process
    ended.wait()


def test_where_the_machine_does_not_tell_its_boot_there_is_none(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(identity, "BOOT_ID", tmp_path / "boot_id")
    assert Identity.of(os.getpid()) is None
