"""The same registry behind MLflow's own server, which a team shares: other code paths of MLflow, and it can die."""

import os
import signal
import socket
import subprocess
import sys
import time
import urllib.request
from collections.abc import Callable, Iterator
from contextlib import closing
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from genxfer.errors import RegistryError
from genxfer.registry import tracking
from genxfer.registry.config import ModelPackage, PromoteConfig, RegisterConfig
from genxfer.registry.lineage import recent_results, registered_results
from genxfer.registry.models import find_version, register
from genxfer.registry.promotion import promote, rollback
from genxfer.registry.pull import load_images
from genxfer.registry.runs import finish_parent, start_parent
from genxfer.registry.tracking import TrackedRun
from tests.registry.test_rule import MEASURED, RULE

STARTS_WITHIN_S = 120.0


@pytest.fixture
def server(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[subprocess.Popen[bytes]]:
    """A server on 127.0.0.1, in a process group of its own, that MLFLOW_TRACKING_URI points at."""
    with closing(socket.socket()) as unused:
        unused.bind(("127.0.0.1", 0))
        uri = f"http://127.0.0.1:{unused.getsockname()[1]}"
    command = [sys.executable, "-m", "mlflow", "server", "--host", "127.0.0.1", "--port", uri.rpartition(":")[2]]
    command += ["--workers", "1", "--backend-store-uri", f"sqlite:///{tmp_path}/server.db"]
    command += ["--artifacts-destination", str(tmp_path / "artifacts"), "--serve-artifacts"]
    environment = {**os.environ, "MLFLOW_DISABLE_TELEMETRY": "true", "MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false"}
    environment["PATH"] = f"{Path(sys.executable).parent}{os.pathsep}{environment['PATH']}"
    with (tmp_path / "server.log").open("wb") as log:
        process = subprocess.Popen(command, env=environment, stdout=log, stderr=log, start_new_session=True)
    try:
        _wait_until_healthy(uri, process)
        monkeypatch.setenv("MLFLOW_TRACKING_URI", uri)
        monkeypatch.delenv("MLFLOW_REGISTRY_URI", raising=False)
        yield process
    finally:
        _kill(process)


@pytest.mark.service
@pytest.mark.slow
def test_a_team_server_takes_models_and_its_death_does_not_stop_training(
    server: subprocess.Popen[bytes],
    make_package: Callable[..., ModelPackage],
    tmp_path: Path,
    capfd: pytest.CaptureFixture[str],
) -> None:
    model = register(make_package(tmp_path / "1", "fp-team"), RegisterConfig(name="team"))
    assert find_version("team", "fp-team") == model
    assert load_images("models:/team@challenger", 2, 0).shape == (2, 16, 16, 1)

    began_s = time.monotonic()
    with TrackedRun("pretrain", fingerprint="team-halted") as run:
        os.killpg(server.pid, signal.SIGSTOP)  # it takes connections, as the kernel does, and does not answer
        for step in range(1, 50):
            run.log({"loss": 1.0}, images_seen=step)
    assert time.monotonic() - began_s < tracking.RETRY_AFTER_S / 2
    os.killpg(server.pid, signal.SIGCONT)

    with TrackedRun("pretrain", fingerprint="team-run") as run:
        run.log({"loss": 2.0}, images_seen=1)
        run.picture("samples", np.zeros((2, 3, 8, 8), np.uint8), images_seen=1)
        _kill(server)
        began_s = time.monotonic()
        for step in range(2, 50):
            run.log({"loss": 1.0}, images_seen=step)
        assert time.monotonic() - began_s < tracking.RETRY_AFTER_S / 2
    with pytest.raises(RegistryError, match="does not answer"):
        register(make_package(tmp_path / "2", "fp-late"), RegisterConfig(name="team"))
    assert capfd.readouterr().out == ""


@pytest.mark.service
@pytest.mark.slow
def test_a_team_server_promotes_rolls_back_and_knows_what_its_versions_were_made_from(
    server: subprocess.Popen[bytes], make_package: Callable[..., ModelPackage], tmp_path: Path
) -> None:
    versions = []
    for number, kid in enumerate((0.2, 0.1)):
        package = replace(make_package(tmp_path / str(number), f"fp-{number}"), measured=MEASURED | {"kid": kid})
        versions.append(register(package, RegisterConfig(name="team")).version)
        assert promote("team", "challenger", PromoteConfig(images=1)).champion == versions[-1]
    assert rollback("team", "it draws only threes").champion == versions[0]

    results = registered_results()
    assert results["register", "fp-0"] == f"models:/team/{versions[0]}"
    assert set(results) == {("register", "fp-0"), ("register", "fp-1"), ("pretrain", "1" * 64), ("finetune", "2" * 64)}
    with TrackedRun("evaluate", fingerprint="e" * 64):
        pass
    parent = start_parent("transfer")
    finish_parent(parent, "FINISHED", used=[("pretrain", "9" * 64), ("pretrain", "8" * 64), ("finetune", "7" * 64)])
    recent = {("evaluate", "e" * 64), ("pretrain", "9" * 64), ("pretrain", "8" * 64), ("finetune", "7" * 64)}
    assert recent <= set(recent_results(3600.0))
    assert not recent_results(0.0)
    _kill(server)
    for look in (registered_results, lambda: recent_results(1.0), lambda: promote("team", "challenger", RULE)):
        with pytest.raises(RegistryError, match="does not answer"):
            look()


def _wait_until_healthy(uri: str, process: subprocess.Popen[bytes]) -> None:
    deadline_s = time.monotonic() + STARTS_WITHIN_S
    while time.monotonic() < deadline_s:
        assert process.poll() is None, "the server ended before it was up"
        try:
            urllib.request.urlopen(f"{uri}/health", timeout=1).close()
            return
        except OSError:
            time.sleep(0.2)
    raise TimeoutError(f"no MLflow server at {uri} after {STARTS_WITHIN_S} s")


def _kill(process: subprocess.Popen[bytes]) -> None:
    if process.poll() is None:
        os.killpg(process.pid, signal.SIGKILL)
        process.wait()
