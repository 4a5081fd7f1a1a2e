"""The supervisor and one part of it, without any server: full disks, parts that hang, locks of before a reboot."""

import http.server
import json
import logging
import os
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest

from genxfer.stack import running
from genxfer.stack.health import accepts_connections, ask
from genxfer.stack.parts import Part, parts
from genxfer.stack.postgres import Cluster
from genxfer.stack.running import DONE, ENDING, FAILED, HEALTHY, RESTARTING, STARTING, WAITING, Running
from genxfer.stack.runs import end_dead_runs
from genxfer.stack.settings import Settings
from genxfer.stack.sqlite import confirm, make_way
from genxfer.stack.supervisor import Supervisor

WITHIN_S = 60
SLEEPER = [sys.executable, "-c", "import time; time.sleep(600)"]


@pytest.fixture
def make_running(tmp_path: Path) -> Iterator[Callable[[Part], Running]]:
    """A function that makes a part of a stack of the test's own, which is ended afterwards."""
    threads, made = ThreadPoolExecutor(4), []

    def make(part: Part) -> Running:
        made.append(Running(part, tmp_path, tmp_path / "part.log", threads))
        return made[-1]

    yield make
    for one in made:
        one.stop()
    threads.shutdown()


def step_until(part: Running, reached: Callable[[], bool]) -> None:
    deadline = time.monotonic() + WITHIN_S
    while not reached():
        assert time.monotonic() < deadline, part.describe()
        part.step([])


def test_a_supervisor_outlives_a_full_disk(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    supervisor = Supervisor(Settings(tmp_path))
    state = Settings(tmp_path).folder / "state.json"
    state.mkdir(parents=True)  # nothing can take its place
    for _ in range(3):
        supervisor._tell()
    assert caplog.text.count("cannot be written") == 1
    state.rmdir()
    supervisor._tell()
    assert [part["state"] for part in json.loads(state.read_text())["parts"]] == [WAITING] * 4


def test_what_could_not_be_noted_is_noted_at_the_next_look(
    make_running: Callable[[Part], Running], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(running, "CHECK_EVERY_S", 0.0)
    noted: list[int] = []

    def note() -> None:
        noted.append(len(noted))
        if len(noted) < 3:
            raise OSError("no space left on device")

    part = make_running(Part("part", "a part", SLEEPER, os.environ, check=lambda started_s: None, once_healthy=note))
    step_until(part, lambda: len(noted) == 3)
    assert part.state == HEALTHY
    looked = part._check
    step_until(part, lambda: part._check not in (None, looked))
    assert len(noted) == 3


def test_what_has_to_end_and_does_not_is_ended(
    make_running: Callable[[Part], Running], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(running, "START_LIMIT_S", 0.0)
    monkeypatch.setattr(running, "STARTING_TRIES", 1)
    part = make_running(Part("part", "a part", SLEEPER, os.environ))
    step_until(part, lambda: part.state == FAILED)
    assert "did not end within 0 s" in part.message


def test_what_does_not_answer_any_more_is_ended_and_started_again(
    make_running: Callable[[Part], Running], monkeypatch: pytest.MonkeyPatch
) -> None:
    for limit in ("CHECK_EVERY_S", "UNHEALTHY_LIMIT_S"):
        monkeypatch.setattr(running, limit, 0.0)
    answers = iter([None, "no answer", "no answer"])
    part = make_running(Part("part", "a part", SLEEPER, os.environ, check=lambda started_s: next(answers, None)))
    step_until(part, lambda: part.state == HEALTHY)
    first = part.describe()["pid"]
    step_until(part, lambda: part.state == RESTARTING)
    assert part.message.endswith(": no answer")
    step_until(part, lambda: part.state == HEALTHY)
    assert part.describe()["restarts"] == 1
    assert part.describe()["pid"] not in (None, first)


def test_what_ends_in_time_is_done(make_running: Callable[[Part], Running]) -> None:
    part = make_running(Part("part", "a part", ["true"], os.environ))
    step_until(part, lambda: part.state == DONE)


def test_a_step_does_not_wait_for_a_preparation(make_running: Callable[[Part], Running]) -> None:
    may_go_on = threading.Event()
    part = make_running(Part("part", "a part", SLEEPER, os.environ, before=may_go_on.wait))
    part.step([])
    part.step([])
    assert part.state == WAITING
    may_go_on.set()
    step_until(part, lambda: part.state == STARTING)


@pytest.mark.parametrize("error", [OSError("no room"), KeyError("id")])
def test_a_preparation_that_fails_is_the_parts_failure(
    make_running: Callable[[Part], Running], error: Exception
) -> None:
    def fail() -> None:
        raise error

    part = make_running(Part("part", "a part", SLEEPER, os.environ, before=fail))
    step_until(part, lambda: part.state in (ENDING, RESTARTING))
    assert part.message == f"cannot be started: {error}"


@pytest.mark.parametrize(("length", "body"), [(100, b"{}"), (5, b"<html")], ids=["broken off", "no JSON"])
def test_an_answer_that_is_none_is_an_os_error(length: int, body: bytes) -> None:
    class Handler(http.server.BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self.send_response(200)
            self.send_header("Content-Length", str(length))
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, format: str, *args: object) -> None:
            """Stay silent."""

    with http.server.HTTPServer(("127.0.0.1", 0), Handler) as server:
        thread = threading.Thread(target=server.handle_request)
        thread.start()
        with pytest.raises(OSError, match="broke off, or answers what is no JSON"):
            ask(f"http://127.0.0.1:{server.server_port}")
        thread.join()


def test_a_database_that_is_not_known_to_be_complete_is_put_aside(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    database = tmp_path / "servers" / "mlflow.db"
    make_way(database)
    for content in ("first", "second"):
        database.write_text(content)
        database.with_name("mlflow.db-wal").write_text(f"{content}, the log")
        make_way(database)
    assert not database.exists()
    kept = {path.read_text() for path in database.parent.glob("incomplete-*/mlflow.db*")}
    assert kept == {"first", "first, the log", "second", "second, the log"}
    assert caplog.records[0].levelno == logging.WARNING
    database.write_text("third")
    confirm(database)
    make_way(database)
    assert database.read_text() == "third"


def test_the_full_stack_says_nothing_of_the_small_ones_databases(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(Cluster, "of", classmethod(lambda cls, settings: cls(tmp_path, tmp_path)))
    settings = Settings(tmp_path, full=True)
    files = [settings.folder / name / f"{name}.db" for name in ("prefect", "mlflow")]
    for file in files:
        file.parent.mkdir(parents=True)
        file.touch()
    for part in parts(settings):
        if part.name in ("prefect", "mlflow"):
            part.before()
            part.once_healthy()
    assert all(list(file.parent.iterdir()) == [file] for file in files)


def test_a_lock_of_before_a_reboot_does_not_keep_postgresql_out(tmp_path: Path) -> None:
    cluster = Cluster(tmp_path / "data", tmp_path)
    cluster.data.mkdir()
    lock = cluster.data / "postmaster.pid"
    cluster.remove_stale_lock()  # there is none
    server = subprocess.Popen(SLEEPER, cwd=cluster.data)
    other = subprocess.Popen(SLEEPER, cwd=tmp_path)
    try:
        lock.write_text(f"{server.pid}\n{cluster.data}\n")
        cluster.remove_stale_lock()
        assert lock.exists()  # a server that is at work
        lock.write_text(f"{other.pid}\n{cluster.data}\n")
        cluster.remove_stale_lock()
        assert not lock.exists()
    finally:
        for process in (server, other):
            process.kill()
            process.wait()
    lock.write_text(f"{other.pid}\n{cluster.data}\n")
    cluster.remove_stale_lock()
    assert lock.exists()  # PostgreSQL sees by itself that nobody has the number


def test_postgresqls_variables_do_not_lead_the_check_astray(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    program = tmp_path / "pg_isready"
    program.write_text('#!/bin/sh\n[ -z "$PGHOSTADDR" ] || { echo "asked $PGHOSTADDR"; exit 2; }\n')
    program.chmod(0o755)
    monkeypatch.setenv("PGHOSTADDR", "192.0.2.1")
    assert accepts_connections(tmp_path, "127.0.0.1", 5432)(0.0) is None


def test_what_was_given_up_stays_so_until_it_is_tried_again(
    make_running: Callable[[Part], Running], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(running, "STARTING_TRIES", 1)
    part = make_running(Part("part", "a part", ["false"], os.environ))
    step_until(part, lambda: part.state == FAILED)
    for _ in range(3):
        part.step([])
        assert (part.state, part.message) == (FAILED, "ended with code 1; given up after 1 tries")
    part.retry()
    assert part.state == WAITING
    step_until(part, lambda: part.state == FAILED)


def test_runs_of_another_machines_worker_are_let_alone() -> None:
    told: list[str] = []

    def api(path: str, body: Any) -> Any:
        if path == "/flow_runs/filter":
            return [
                {
                    "id": name,
                    "name": name,
                    "state_type": "RUNNING",
                    "labels": {"prefect.worker.name": name} if name else {},
                }
                for name in ("here", "there", "")
            ]
        told.append(f"{path} {body['state']['type']}")

    end_dead_runs(api, "here")
    assert told == ["/flow_runs/here/set_state CRASHED"]
