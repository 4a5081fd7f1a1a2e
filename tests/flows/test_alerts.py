"""A worker's run that fails, and one whose process is killed: each is told to a real listener."""

import os
import signal
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import psutil
import pytest
import yaml

from tests.conftest import REPOSITORY, GenxferRun
from tests.flows.conftest import PREFECT, Server
from tests.listener import Listener, listening
from tests.waiting import until

pytestmark = [pytest.mark.slow, pytest.mark.service]

TOLD_WITHIN_S = 120  # the worker's next look, Prefect's import, the run itself
LONG = "pretrain.kimg=400"


@pytest.fixture(scope="module")
def project(server: Server, make_clone: Callable[..., Path], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A clone of the project whose pretraining is long; deployed."""
    folder = make_clone(LONG)
    config = yaml.safe_load((REPOSITORY / "prefect.yaml").read_text())
    for deployment in config["deployments"]:
        deployment["concurrency_limit"] = None
    server.deploy(config, tmp_path_factory.mktemp("deploy"), folder)
    return folder


@pytest.fixture
def listener() -> Iterator[Listener]:
    with listening() as listener:
        yield listener


@pytest.fixture
def worker(server: Server, project: Path, listener: Listener) -> Iterator["subprocess.Popen[bytes]"]:
    environment = {name: value for name, value in server.environment.items() if name != "PYTHONPATH"}
    environment["GENXFER_WEBHOOK_URL"] = f"{listener.url}/hooks/T0KEN"
    with (project / "worker.log").open("ab") as log:
        process = subprocess.Popen(
            [*PREFECT, "worker", "start", "--pool", "genxfer"], cwd=project, env=environment, stdout=log, stderr=log
        )
    yield process
    process.kill()
    process.wait()


def begin(server: Server, flow: str, changed: dict[str, Any] | None = None) -> dict[str, Any]:
    deployment = server.ask(f"/deployments/name/{flow}/{flow}")
    parameters = {"params": deployment["parameters"]["params"] | (changed or {})}
    run: dict[str, Any] = server.ask(f"/deployments/{deployment['id']}/create_flow_run", {"parameters": parameters})
    return run


@pytest.mark.parametrize("flow", ["transfer", "compare"])
def test_a_run_that_fails_is_told_once_with_its_reason_and_its_page(
    server: Server, project: Path, listener: Listener, worker: "subprocess.Popen[bytes]", flow: str
) -> None:
    nowhere = {"kind": "folder", "path": "data/nowhere"}
    run = begin(server, flow, {"dataset": {"source": nowhere, "target": nowhere | {"n_train": 2}}})
    [told] = until(lambda: listener.received, TOLD_WITHIN_S)
    page = server.url.replace("/api", f"/runs/flow-run/{run['id']}")
    assert told["event"] == "failed"
    assert told["text"].startswith(f"genxfer: the run {run['name']} of the flow {flow} failed: ")
    assert "data/nowhere" in told["text"]
    assert told["text"].endswith(f"\n{page}")
    assert told["details"]["url"] == page
    until(lambda: server.ask(f"/flow_runs/{run['id']}")["state"]["type"] == "FAILED", TOLD_WITHIN_S)
    assert len(listener.received) == 1
    assert "T0KEN" not in (project / "worker.log").read_text()


def test_a_run_whose_process_is_killed_is_told_by_its_worker(
    server: Server, project: Path, listener: Listener, worker: "subprocess.Popen[bytes]"
) -> None:
    run = begin(server, "transfer")
    until(lambda: server.ask(f"/flow_runs/{run['id']}")["state"]["type"] == "RUNNING", TOLD_WITHIN_S)
    for process in psutil.Process(worker.pid).children(recursive=True):
        if "-m" in process.cmdline() and any(part.startswith("prefect.") for part in process.cmdline()):
            os.kill(process.pid, signal.SIGKILL)
    [told] = until(lambda: listener.received, TOLD_WITHIN_S)
    assert told["event"] == "crashed"
    assert told["text"].startswith(f"genxfer: the run {run['name']} of the flow transfer crashed: ")


def test_a_run_from_the_command_line_that_fails_is_told_too(
    project: Path, listener: Listener, genxfer: GenxferRun
) -> None:
    (project / "data" / "broken").mkdir()
    (project / "data" / "broken" / "image.png").write_bytes(b"no image")
    source = "dataset.source={kind: folder, path: data/broken}"
    done = genxfer(project, "run", "-S", source, "-S", "dataset.target.kind=digits", GENXFER_WEBHOOK_URL=listener.url)
    assert done.returncode == 3, done.stderr
    [told] = listener.received
    assert told["event"] == "failed"
    assert told["details"]["url"] is None
