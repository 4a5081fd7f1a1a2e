"""`genxfer up` beside another `genxfer up`, and beside a `genxfer down`: told from a state that the test writes."""

import fcntl
import json
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

import pytest

from genxfer.launch.identity import Identity
from genxfer.stack.settings import Ports, Settings
from tests.conftest import clean_environment

DEAF = "import signal, time; signal.signal(signal.SIGHUP, signal.SIG_IGN); print(1, flush=True); time.sleep(600)"


@pytest.fixture
def settings(tmp_path: Path) -> Settings:
    (tmp_path / "prefect.yaml").touch()
    found = Settings(tmp_path)
    found.folder.mkdir(parents=True)
    return found


@pytest.fixture
def supervisor() -> Iterator["subprocess.Popen[bytes]"]:
    """A process that hears of SIGHUP and does nothing."""
    with subprocess.Popen([sys.executable, "-c", DEAF], stdout=subprocess.PIPE) as process:
        assert process.stdout
        process.stdout.readline()
        try:
            yield process
        finally:
            process.kill()


def tell(settings: Settings, supervisor: "subprocess.Popen[bytes]", stopping: bool) -> None:
    """Write what a supervisor writes whose parts are all well."""
    who = Identity.of(supervisor.pid)
    assert who is not None
    state = {"supervisor": vars(who), "since": 0, "heartbeat": time.time() + 600, "stopping": stopping}
    (settings.folder / "state.json").write_text(json.dumps(state | {"retries": 1, "parts": []}))


@contextmanager
def locked(path: Path) -> Iterator[None]:
    """Hold a lock as another command does that is at work."""
    descriptor = os.open(path, os.O_RDONLY | (0 if path.is_dir() else os.O_CREAT))
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX)
        yield
    finally:
        os.close(descriptor)


@contextmanager
def beginning(settings: Settings, *arguments: str) -> Iterator["subprocess.Popen[str]"]:
    """Yield a `genxfer` that is at work."""
    command = [sys.executable, "-m", "genxfer", *arguments]
    environment = clean_environment(settings.project)
    with subprocess.Popen(
        command, cwd=settings.project, env=environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    ) as process:
        try:
            yield process
        finally:
            process.kill()


def first_words(process: "subprocess.Popen[str]") -> str:
    assert process.stderr
    return process.stderr.readline().strip()


def test_a_second_up_prints_the_addresses_that_the_first_one_chose(
    settings: Settings, supervisor: "subprocess.Popen[bytes]"
) -> None:
    with ExitStack() as first:
        first.enter_context(locked(settings.folder / "up.lock"))
        with beginning(settings, "up") as second:
            assert first_words(second) == "genxfer: another `genxfer up` is at work; waiting for it"
            chosen = Settings(settings.project, ports=Ports.from_base(7000))
            chosen.save()
            tell(settings, supervisor, stopping=False)
            first.close()
            printed, said = second.communicate()
    assert second.returncode == 0, said
    assert chosen.prefect_url in printed
    assert chosen.mlflow_url in printed


def test_up_waits_for_the_down_that_is_at_work_and_then_starts(
    settings: Settings, supervisor: "subprocess.Popen[bytes]"
) -> None:
    tell(settings, supervisor, stopping=False)  # it has not heard yet
    with ExitStack() as down, socket.create_server(("127.0.0.1", 0)) as taken:
        down.enter_context(locked(settings.folder))
        with beginning(settings, "up", "--prefect-port", str(taken.getsockname()[1])) as up:
            assert first_words(up) == "genxfer: `genxfer down` is at work; waiting for it"
            supervisor.kill()
            supervisor.wait()
            down.close()
            printed, said = up.communicate()
    assert (up.returncode, printed) == (2, "")  # it would have started something
    assert "which prefect would use, is taken" in said
    assert "the stack is up" not in said


def test_up_ends_a_stack_whose_down_was_killed_and_then_starts(
    settings: Settings, supervisor: "subprocess.Popen[bytes]"
) -> None:
    tell(settings, supervisor, stopping=True)
    with (
        socket.create_server(("127.0.0.1", 0)) as taken,
        beginning(settings, "up", "--prefect-port", str(taken.getsockname()[1])) as up,
    ):
        assert first_words(up) == "genxfer: the stack is being stopped; waiting until it is down"
        printed, said = up.communicate()
    assert supervisor.wait() == -signal.SIGTERM
    assert (up.returncode, printed) == (2, "")
    assert "which prefect would use, is taken" in said
