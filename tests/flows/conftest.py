"""A Prefect server of the tests' own, with all its services."""

import json
import os
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml

from tests.conftest import REPOSITORY
from tests.waiting import until

PREFECT = [sys.executable, "-m", "prefect"]
SERVER_UP_WITHIN_S = 240  # on a busy machine
TRIES = 20


class Server:
    """A Prefect server, asked over HTTP."""

    def __init__(self, port: int, environment: dict[str, str]) -> None:
        self.url = f"http://127.0.0.1:{port}/api"
        self.environment = {**environment, "PREFECT_API_URL": self.url}

    def ask(self, path: str, body: Any = None, method: str | None = None) -> Any:
        """Return what the API answers to a GET, to a POST where there is a body, or to another method."""
        data = None if body is None else json.dumps(body).encode()
        request = urllib.request.Request(self.url + path, data, {"Content-Type": "application/json"}, method=method)
        for _ in range(TRIES):
            try:
                with urllib.request.urlopen(request, timeout=30) as response:
                    content = response.read()
                return json.loads(content) if content else None
            except urllib.error.HTTPError as error:
                if error.code != 503:  # its SQLite was busy: Prefect's own clients try again, too
                    raise
            time.sleep(0.5)
        raise AssertionError(f"the server is busy, {TRIES} times in a row")

    def deploy(self, config: dict[str, Any], folder: Path, project: Path, name: str = "transfer") -> dict[str, Any]:
        """Deploy in the folder of `project` as `prefect deploy --all` does, and return the deployment."""
        file = folder / "prefect.yaml"
        file.write_text(yaml.safe_dump(config))
        command = [*PREFECT, "--no-prompt", "deploy", "--all", "--prefect-file", str(file)]
        environment = self.environment | {"PWD": str(project)}
        subprocess.run(command, cwd=project, env=environment, check=True, capture_output=True, text=True)
        deployment: dict[str, Any] = self.ask(f"/deployments/name/transfer/{name}")
        return deployment


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    home = tmp_path_factory.mktemp("prefect")
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    environment = {name: value for name, value in os.environ.items() if not name.startswith("PREFECT_")} | {
        "PREFECT_HOME": str(home),
        "PREFECT_SERVER_ANALYTICS_ENABLED": "false",
        "PREFECT_API_BLOCKS_REGISTER_ON_START": "false",
        "PYTHONPATH": str(REPOSITORY),
        "DO_NOT_TRACK": "1",
    }
    command = [*PREFECT, "server", "start", "--host", "127.0.0.1", "--port", str(port), "--no-ui"]
    with (home / "server.log").open("wb") as log:
        process = subprocess.Popen(command, env=environment, stdout=log, stderr=log)
    server = Server(port, environment)

    def healthy() -> bool:
        assert process.poll() is None, (home / "server.log").read_text()
        try:
            return bool(server.ask("/health"))
        except OSError:
            return False

    try:
        until(healthy, SERVER_UP_WITHIN_S)
        server.ask("/work_pools/", {"name": "genxfer", "type": "process"})
        yield server
    finally:
        process.terminate()
        try:
            process.wait(20)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()
