"""infra/train.sh, which runs the stages of the training Job one after the other."""

import os
import shutil
import subprocess
from pathlib import Path

import pytest

from tests.conftest import REPOSITORY


@pytest.mark.parametrize(
    ("stage", "code", "begun"),
    [
        ("true", 0, ["dataset", "pretrain"]),
        ("exit 3", 3, ["dataset"]),
        ("kill -TERM $PPID", 143, ["dataset"]),  # it comes too late for the stage, which ends well
    ],
)
def test_no_stage_begins_after_one_that_failed_or_after_the_end_was_asked_for(
    tmp_path: Path, stage: str, code: int, begun: list[str]
) -> None:
    for name in ("bin", "infra"):
        (tmp_path / name).mkdir()
    script = shutil.copy(REPOSITORY / "infra/train.sh", tmp_path / "infra")
    program = tmp_path / "bin/genxfer"
    program.write_text(f'#!/bin/sh\necho "$1" >>"{tmp_path}/begun"\n{stage}\n')
    program.chmod(0o755)
    environment = os.environ | {"PATH": f"{program.parent}:{os.environ['PATH']}"}
    assert subprocess.run([script, "dataset", "pretrain"], env=environment).returncode == code
    assert (tmp_path / "begun").read_text().split() == begun
