import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from genxfer.artifacts.atomic import PendingFile, sweep, write_atomic, write_json_atomic

WRITER = """
import sys
from pathlib import Path
from genxfer.artifacts.atomic import PendingFile
with PendingFile(Path(sys.argv[1])) as pending:
    pending.write(b"half of it")
    print("writing", flush=True)
    sys.stdin.read()
"""


@settings(deadline=None, max_examples=30)  # fsync and busy machines take their time
@given(data=st.binary(max_size=1000))
def test_what_is_written_is_read_back_and_nothing_else_is_left(tmp_path_factory, data):
    folder = tmp_path_factory.mktemp("atomic")
    write_atomic(folder / "new" / "file", data)
    assert (folder / "new" / "file").read_bytes() == data
    assert len(list(folder.rglob("*"))) == 2


def test_json_is_sorted_indented_and_refuses_nan_leaving_the_old_file(tmp_path):
    path = tmp_path / "a.json"
    write_json_atomic(path, {"b": 1, "a": "ü"})
    assert path.read_text() == '{\n  "a": "ü",\n  "b": 1\n}\n'
    with pytest.raises(ValueError, match="not JSON compliant"):
        write_json_atomic(path, {"a": float("nan")})
    assert '"ü"' in path.read_text()


def test_an_error_before_the_commit_leaves_the_old_file_and_no_temporary_one(tmp_path):
    path = tmp_path / "file"
    write_atomic(path, b"old")

    def interrupted() -> None:
        with PendingFile(tmp_path) as pending:
            pending.write(b"new")
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        interrupted()
    assert [p.name for p in tmp_path.iterdir()] == ["file"]
    assert path.read_bytes() == b"old"


def test_a_file_gets_the_permissions_that_the_user_s_umask_leaves(tmp_path):
    before = os.umask(0o027)
    try:
        write_atomic(tmp_path / "file", b"")
    finally:
        os.umask(before)
    assert (tmp_path / "file").stat().st_mode & 0o777 == 0o640


def start_writer(folder: Path) -> subprocess.Popen[str]:
    writer = subprocess.Popen(
        [sys.executable, "-c", WRITER, str(folder)], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    )
    assert writer.stdout is not None
    assert writer.stdout.readline() == "writing\n"
    return writer


def test_sweep_removes_what_killed_writers_left_and_spares_the_living_and_the_young(tmp_path):
    dead, living = start_writer(tmp_path), start_writer(tmp_path)
    dead.send_signal(signal.SIGKILL)
    dead.communicate()
    (tmp_path / "output").write_bytes(b"")
    assert sweep(tmp_path) == 0  # all of them were made a moment ago
    for path in tmp_path.iterdir():
        os.utime(path, (0, 0))
    assert sweep(tmp_path) == 1
    assert sorted(f"-{living.pid}-" in path.name for path in tmp_path.iterdir()) == [False, True]
    living.communicate()
    assert [path.name for path in tmp_path.iterdir()] == ["output"]
