import logging
import os
import queue
import signal
import subprocess
import sys
import threading
from pathlib import Path

import pytest

from genxfer.artifacts.store import LocalStore
from genxfer.errors import StoreError

HOLDER = """
import os, sys, time
from pathlib import Path
from genxfer.artifacts.local import LocalStore
with LocalStore(Path(sys.argv[1])).lock("pretrain", "f" * 64):
    if sys.argv[2] == "fork":
        if os.fork() == 0:
            print("held", flush=True)  # by the child: now it is sure to have started
            time.sleep(60)
            os._exit(0)
    else:
        print("held", flush=True)
    sys.stdin.read()
"""
TIMEOUT_S = 30


def start_holder(root: Path, mode: str = "alone") -> subprocess.Popen[str]:
    # A session of its own, so that its orphan can be found and ended.
    holder = subprocess.Popen(
        [sys.executable, "-c", HOLDER, str(root), mode],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )
    assert holder.stdout is not None
    assert holder.stdout.readline() == "held\n"
    return holder


def take_in_thread(root: Path) -> tuple[threading.Thread, "queue.Queue[str]"]:
    """Take the lock in a thread that reports when it waits and when it holds."""
    events: queue.Queue[str] = queue.Queue()

    def take() -> None:
        with LocalStore(root).lock("pretrain", "f" * 64, on_wait=lambda: events.put("waits")):
            events.put("holds")

    thread = threading.Thread(target=take)
    thread.start()
    return thread, events


def test_a_second_process_waits_says_for_whom_and_then_holds(tmp_path, caplog):
    caplog.set_level(logging.INFO, "genxfer.artifacts")
    holder = start_holder(tmp_path)
    thread, events = take_in_thread(tmp_path)
    assert events.get(timeout=TIMEOUT_S) == "waits"
    assert [record.message for record in caplog.records] == [
        f"pretrain ffffffffffff is being made by pid {holder.pid}: waiting for it"
    ]
    assert events.empty()
    holder.communicate()
    assert events.get(timeout=TIMEOUT_S) == "holds"
    thread.join()
    assert len(caplog.records) == 1


def test_a_holder_killed_with_9_blocks_nobody(tmp_path):
    holder = start_holder(tmp_path)
    thread, events = take_in_thread(tmp_path)
    assert events.get(timeout=TIMEOUT_S) == "waits"
    holder.send_signal(signal.SIGKILL)
    assert events.get(timeout=TIMEOUT_S) == "holds"
    thread.join()
    holder.communicate()


def test_a_forked_child_that_outlives_a_killed_holder_blocks_nobody(tmp_path):
    holder = start_holder(tmp_path, "fork")
    try:
        holder.send_signal(signal.SIGKILL)
        holder.wait()
        os.killpg(holder.pid, 0)  # the orphan is alive
        thread, events = take_in_thread(tmp_path)
        assert events.get(timeout=TIMEOUT_S) == "holds"
        thread.join()
    finally:
        os.killpg(holder.pid, signal.SIGKILL)


def test_locks_of_other_stages_and_fingerprints_do_not_wait(tmp_path):
    holder = start_holder(tmp_path)
    for stage, fp in (("finetune", "f" * 64), ("pretrain", "e" * 64)):
        with LocalStore(tmp_path).lock(stage, fp, on_wait=lambda: pytest.fail("waited")):
            pass
    holder.communicate()


def test_a_lock_can_be_taken_again_after_an_error_under_it(tmp_path):
    store = LocalStore(tmp_path)
    with pytest.raises(OSError, match="the stage's own"), store.lock("pretrain", "f" * 64):
        raise OSError("the stage's own")
    with store.lock("pretrain", "f" * 64, on_wait=lambda: pytest.fail("waited")):
        pass


def test_waiters_on_a_removed_lock_file_still_exclude_each_other(tmp_path):
    holder = start_holder(tmp_path)
    thread, events = take_in_thread(tmp_path)
    assert events.get(timeout=TIMEOUT_S) == "waits"
    (tmp_path / "locks" / "pretrain" / f"{'f' * 64}.lock").unlink()
    second = start_holder(tmp_path)  # makes a new file, and holds it
    holder.communicate()
    with pytest.raises(queue.Empty):
        events.get(timeout=0.5)
    second.communicate()
    assert events.get(timeout=TIMEOUT_S) == "holds"
    thread.join()


def test_a_lock_that_cannot_be_made_is_a_store_error(tmp_path):
    (tmp_path / "locks").write_text("in the way")
    with pytest.raises(StoreError, match="'pretrain' could not be locked"), LocalStore(tmp_path).lock("pretrain", "f"):
        pass
