"""A worker's run with two ranks is cancelled or killed: soon no process of it is left, and its checkpoint is."""

import os
import signal
import subprocess
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path

import psutil
import pytest
import yaml

from tests.flows.conftest import PREFECT, Server
from tests.waiting import until

pytestmark = [pytest.mark.slow, pytest.mark.service]

LONG = ("compute.devices=2", "compute.checkpoint_every_s=0.5", "pretrain.kimg=400")  # more than the test waits for
STARTED_WITHIN_S = 120
GONE_WITHIN_S = 20


@pytest.fixture(scope="module")
def project(server: Server, make_clone: Callable[..., Path], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A clone of the project, deployed."""
    folder = make_clone(*LONG)
    config = yaml.safe_load((Path(__file__).parents[2] / "prefect.yaml").read_text())
    config["deployments"][0]["concurrency_limit"] = None  # a killed run stays Running in Prefect's books for a while
    server.deploy(config, tmp_path_factory.mktemp("deploy"), folder)
    return folder


@pytest.fixture
def worker(server: Server, project: Path) -> Iterator["subprocess.Popen[bytes]"]:
    command = [*PREFECT, "worker", "start", "--pool", "genxfer"]
    environment = {name: value for name, value in server.environment.items() if name != "PYTHONPATH"}
    with (project / "worker.log").open("ab") as log:
        process = subprocess.Popen(command, cwd=project, env=environment, stdout=log, stderr=log)
    yield process
    process.kill()
    process.wait()


def processes_of(project: Path, word: str) -> list[psutil.Process]:
    """Return the processes that work in `project` with `word` in their command line."""
    found = []
    for process in psutil.process_iter():
        try:
            if process.cwd() == str(project) and any(word in part for part in process.cmdline()):
                found.append(process)
        except psutil.Error:
            continue
    return found


def ranks(project: Path) -> list[psutil.Process]:
    found = []
    for rank in processes_of(project, "genxfer.launch.worker"):
        with suppress(psutil.Error):  # it may end meanwhile
            if "-u" in rank.cmdline():
                found.append(rank)
    return found


def begin(server: Server, project: Path) -> str:
    """Start a run, wait until its ranks train, and return its id."""
    deployment = server.ask("/deployments/name/transfer/transfer")
    run = server.ask(f"/deployments/{deployment['id']}/create_flow_run", {})
    work = project / ".genxfer" / "store" / "work" / "pretrain"
    before = {path: path.stat().st_mtime_ns for path in work.glob("*/checkpoint-*.safetensors")}

    def training() -> bool:
        state = server.ask(f"/flow_runs/{run['id']}")["state"]
        assert state["type"] in ("SCHEDULED", "PENDING", "RUNNING"), state
        now = {path: path.stat().st_mtime_ns for path in work.glob("*/checkpoint-*.safetensors")}
        return len(ranks(project)) == 2 and bool(now.items() - before.items())

    until(training, STARTED_WITHIN_S)
    assert len(everything(project)) >= 5, "the flow, the supervisor, torchrun and two ranks"
    return str(run["id"])


def everything(project: Path) -> list[psutil.Process]:
    """Return the processes of a run: the flow's, the ranks, and all in between."""
    return processes_of(project, "prefect.engine") + processes_of(project, "genxfer.launch")


def test_a_cancelled_run(server: Server, project: Path, worker: "subprocess.Popen[bytes]") -> None:
    run = begin(server, project)
    server.ask(f"/flow_runs/{run}/set_state", {"state": {"type": "CANCELLING"}, "force": False})
    until(lambda: not everything(project), GONE_WITHIN_S)
    until(lambda: server.ask(f"/flow_runs/{run}")["state"]["type"] == "CANCELLED", GONE_WITHIN_S)


def test_a_killed_flow(server: Server, project: Path, worker: "subprocess.Popen[bytes]") -> None:
    run = begin(server, project)
    [flow] = [process for process in psutil.Process(worker.pid).children(recursive=True) if _is_flow(process)]
    os.kill(flow.pid, signal.SIGKILL)
    until(lambda: not everything(project), GONE_WITHIN_S)
    until(lambda: server.ask(f"/flow_runs/{run}")["state"]["type"] == "CRASHED", GONE_WITHIN_S)


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGTERM])
def test_a_killed_worker(server: Server, project: Path, worker: "subprocess.Popen[bytes]", number: int) -> None:
    begin(server, project)
    os.kill(worker.pid, number)
    until(lambda: not everything(project), GONE_WITHIN_S)


def _is_flow(process: psutil.Process) -> bool:
    return "-m" in process.cmdline() and any(part.startswith("prefect.") for part in process.cmdline())
