"""The store under a full disk, `kill -9`, and several processes that want the same."""

import json
import os
import signal
import subprocess
import sys
import threading
from pathlib import Path

import pytest

from genxfer.artifacts.fingerprint import build_document, digest_bytes, fingerprint
from genxfer.artifacts.store import LocalStore
from genxfer.errors import StoreError
from tests.artifacts.stores import DOCUMENT, FP, LocalKind, contents, publish, write_files


@pytest.mark.parametrize("obstacle", ["small_disk", "limited_files"])
def test_a_full_disk_is_an_error_that_says_so_with_the_store_as_it_was(request, tmp_path, obstacle):
    small = {"a.json": b"{}", "b.npy": b"x" * 300_000}
    first = build_document(stage="dataset", params={}, inputs={}, code={}, libraries={})
    small_dir = write_files(tmp_path / "fits", small)
    # A sparse file: its two megabytes of zeros need no room where it lies, so the limit meets the store alone.
    large_dir = write_files(tmp_path / "too_large", {"a.json": b"new", "c.npy": b""})
    os.truncate(large_dir / "c.npy", 2 << 20)
    folder, words = request.getfixturevalue(obstacle)
    store = LocalStore(folder / "store")
    kept = publish(store, small_dir, first)
    before = contents(store.root)
    with pytest.raises(StoreError, match=f"'pretrain' could not be published.*{words}"):
        publish(store, large_dir)
    assert contents(store.root) == before
    assert store.find("pretrain", FP) is None
    assert store.find("dataset", fingerprint(first)) == kept
    assert publish(store, small_dir).outputs.keys() == small.keys()  # and there is room again


def test_export_onto_a_full_disk_keeps_the_old_file(small_disk, local, tmp_path):
    folder, words = small_disk
    export = write_files(folder / "export", {"train.npy": b"old"})
    out_dir = write_files(tmp_path / "large", {"train.npy": b""})
    os.truncate(out_dir / "train.npy", 2 << 20)
    if words.startswith("File"):
        pytest.skip("the limit on files holds for the store as well; the same write path is tested above")
    record = publish(local, out_dir)
    with pytest.raises(StoreError, match=f"'train.npy' of stage 'pretrain' could not be written.*{words}.*run genxfer"):
        local.export(record, export)
    assert contents(export) == {"train.npy": b"old"}


PUBLISHER = """
import json, os, sys
from pathlib import Path
from genxfer.artifacts.atomic import PendingFile
from genxfer.artifacts.fingerprint import fingerprint
from genxfer.artifacts.local import LocalStore

store, out_dir, document = LocalStore(Path(sys.argv[1])), Path(sys.argv[2]), json.loads(sys.argv[3])
# Killed, for real, at the n-th of the steps that can leave something behind.
steps = int(sys.argv[4])
def step(function):
    def counted(*arguments):
        global steps
        steps -= 1
        if steps < 0:
            os.kill(os.getpid(), 9)
        return function(*arguments)
    return counted
for name in ("write", "seal", "commit"):
    setattr(PendingFile, name, step(getattr(PendingFile, name)))
store.publish(
    document["stage"], fingerprint(document), out_dir, document=document, seconds=1.0, facts={}, versions={}
)
"""


def test_a_publisher_killed_at_any_step_leaves_nothing_that_is_half_published(local, out_dir, caplog):
    finished_after = None
    for steps in range(20):
        command = [sys.executable, "-c", PUBLISHER, str(local.root), str(out_dir), json.dumps(DOCUMENT), str(steps)]
        killed = subprocess.run(command, capture_output=True).returncode == -signal.SIGKILL
        record = local.find("pretrain", FP)
        for path in (local.root / "objects").glob("??/*"):
            assert digest_bytes(path.read_bytes()) == path.parent.name + path.name
        if not killed:
            finished_after = steps
            break
        assert record is None
    assert finished_after is not None
    assert finished_after >= 12  # three outputs and a record: written, sealed, named
    assert record is not None
    assert not caplog.records  # an interrupted publication is a plain miss
    for path in local.root.rglob(".genxfer-*"):
        os.utime(path, (0, 0))
    next_document = DOCUMENT | {"params": {"kimg": 2}}
    publish(local, out_dir, next_document)  # and sweeps up after the dead
    assert not list(local.root.rglob(".genxfer-*"))


RUNNER = """
import json, sys
from pathlib import Path
from genxfer.artifacts.fingerprint import fingerprint
from tests.artifacts.stores import opened

store, out_dir, document = opened(*json.loads(sys.argv[1])), Path(sys.argv[2]), json.loads(sys.argv[3])
key = document["stage"], fingerprint(document)
print("ready", flush=True)
sys.stdin.readline()
if store.find(*key) is None:
    with store.lock(*key, on_wait=lambda: print("waits", flush=True)):
        if store.find(*key) is None:
            print("works", flush=True)
            sys.stdin.readline()
            store.publish(*key, out_dir, document=document, seconds=1.0, facts={}, versions={})
            sys.exit()
print("hits", flush=True)
"""


def start(script: str, *arguments: object) -> subprocess.Popen[str]:
    command = [sys.executable, "-c", script, *map(str, arguments), json.dumps(DOCUMENT)]
    process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
    assert next_line(process) == "ready"
    return process


def next_line(process: subprocess.Popen[str]) -> str:
    assert process.stdout is not None
    return process.stdout.readline().strip()


def go_on(process: subprocess.Popen[str]) -> None:
    assert process.stdin is not None
    process.stdin.write("\n")
    process.stdin.flush()


@pytest.fixture
def two(kind, out_dir):
    """Two processes (with S3: two hosts) that want the same fingerprint: the first works, the second waits."""
    first, second = (start(RUNNER, json.dumps(kind.arguments()), out_dir) for _ in range(2))
    go_on(first)
    assert next_line(first) == "works"
    go_on(second)
    assert next_line(second) == "waits"
    yield first, second
    for process in (first, second):
        process.kill()
        process.communicate()


def test_of_two_processes_that_want_a_fingerprint_one_works_and_the_other_waits_and_hits(two):
    first, second = two
    go_on(first)
    assert next_line(second) == "hits"
    assert [process.wait() for process in (first, second)] == [0, 0]


def test_when_the_worker_is_killed_the_one_that_waits_takes_over(store, two):
    first, second = two
    first.send_signal(signal.SIGKILL)
    assert next_line(second) == "works"
    go_on(second)
    assert second.wait() == 0
    assert store.find("pretrain", FP) is not None


def test_publishers_that_race_without_a_lock_all_return_the_one_record(kind, store, tmp_path):
    folders = [write_files(tmp_path / str(n), {"out": b"%d" % n * 100_000}) for n in range(8)]
    barrier, records = threading.Barrier(8), []

    def race(folder: Path, seconds: float) -> None:
        one = kind.open()
        assert one.find("pretrain", FP) is None  # connected, so that all are as quick as each other
        barrier.wait()
        records.append(publish(one, folder, seconds=seconds))

    threads = [threading.Thread(target=race, args=(folder, n)) for n, folder in enumerate(folders)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len({record.seconds for record in records}) == 1
    assert store.find("pretrain", FP) == records[0]
    assert kind.open().read(records[0].outputs["out"]).read_bytes() in [b"%d" % n * 100_000 for n in range(8)]
    if isinstance(kind, LocalKind):
        assert len([key for key in kind.contents() if key.startswith("objects/")]) == 1
