"""infra/system-packages.sh: silent where all is there, installs as root, says what to install otherwise."""

import subprocess
from pathlib import Path

import pytest

from tests.conftest import REPOSITORY

SCRIPT = REPOSITORY / "infra/system-packages.sh"


@pytest.fixture
def programs(tmp_path: Path) -> Path:
    """A folder with the few programs that the script itself uses; apt-get only writes down what it is asked for."""
    folder = tmp_path / "bin"
    folder.mkdir()
    write(folder, "ls", 'exec /bin/ls "$@"')
    write(folder, "apt-get", f'echo "$@" >>{tmp_path}/asked')
    write(folder, "id", "echo 0")
    write(folder, "initdb")
    return folder


def write(folder: Path, name: str, text: str = "") -> None:
    (folder / name).write_text(f"#!/bin/sh\n{text}\n")
    (folder / name).chmod(0o755)


def run(programs: Path) -> "subprocess.CompletedProcess[str]":
    return subprocess.run(["/bin/sh", str(SCRIPT)], env={"PATH": str(programs)}, capture_output=True, text=True)


def test_nothing_is_done_when_all_is_there(programs: Path) -> None:
    for name in ("chromium", "curl", "ip", "tini"):
        write(programs, name)
    done = run(programs)
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")
    assert not (programs.parent / "asked").exists()


def test_root_installs_what_is_missing_and_nothing_else(programs: Path) -> None:
    write(programs, "chromium")
    assert run(programs).returncode == 0
    asked = (programs.parent / "asked").read_text().splitlines()
    assert asked[0].startswith("update")
    assert asked[1].split()[-3:] == ["curl", "iproute2", "tini"]
    assert len(asked) == 2


def test_anybody_else_is_told_what_to_install(programs: Path) -> None:
    write(programs, "id", "echo 1000")
    done = run(programs)
    assert done.returncode == 1
    assert done.stderr.strip().endswith("apt-get install chromium curl")
    assert not (programs.parent / "asked").exists()
