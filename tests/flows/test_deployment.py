"""prefect.yaml against a real server with its schedules: the deployment, its form, and a run that nobody started."""

import json
import os
import socket
import subprocess
import sys
import time
import urllib.request
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, TypeVar

import pytest
import yaml

ROOT = Path(__file__).parents[2]
PREFECT = [sys.executable, "-m", "prefect"]
SERVER_UP_WITHIN_S = 90
SCHEDULED_WITHIN_S = 30

pytestmark = [pytest.mark.slow, pytest.mark.service]
T = TypeVar("T")


class Server:
    """A Prefect server with all its services, asked over HTTP."""

    def __init__(self, port: int, environment: dict[str, str]) -> None:
        self.url = f"http://127.0.0.1:{port}/api"
        self.environment = {**environment, "PREFECT_API_URL": self.url}

    def ask(self, path: str, body: dict[str, Any] | None = None) -> Any:
        data = None if body is None else json.dumps(body).encode()
        request = urllib.request.Request(self.url + path, data, {"Content-Type": "application/json"})
        with urllib.request.urlopen(request, timeout=10) as response:
            return json.load(response)

    def deploy(self, config: dict[str, Any], folder: Path) -> dict[str, Any]:
        """Deploy as `prefect deploy --all` does, and return the deployment."""
        file = folder / "prefect.yaml"
        file.write_text(yaml.safe_dump(config))
        command = [*PREFECT, "--no-prompt", "deploy", "--all", "--prefect-file", str(file)]
        subprocess.run(command, cwd=ROOT, env=self.environment, check=True, capture_output=True, text=True)
        deployment: dict[str, Any] = self.ask("/deployments/name/transfer/transfer")
        return deployment


def _until(look: Callable[[], T | None], limit_s: float) -> T:
    """Return the first answer of `look` that is not empty."""
    deadline = time.monotonic() + limit_s
    while time.monotonic() < deadline:
        if answer := look():
            return answer
        time.sleep(0.1)
    raise AssertionError(f"nothing within {limit_s} s")


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    home = tmp_path_factory.mktemp("prefect")
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    environment = {name: value for name, value in os.environ.items() if not name.startswith("PREFECT_")} | {
        "PREFECT_HOME": str(home),
        "PREFECT_SERVER_ANALYTICS_ENABLED": "false",
        "PREFECT_API_BLOCKS_REGISTER_ON_START": "false",
        "PYTHONPATH": str(ROOT),
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
        _until(healthy, SERVER_UP_WITHIN_S)
        server.ask("/work_pools/", {"name": "genxfer", "type": "process"})
        yield server
    finally:
        process.terminate()
        process.wait(20)


@pytest.fixture(scope="module")
def deployment(server: Server, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """The deployment of prefect.yaml as it stands, but with its schedule turned on."""
    config = yaml.safe_load((ROOT / "prefect.yaml").read_text())
    config["deployments"][0]["schedules"][0]["active"] = True
    return server.deploy(config, tmp_path_factory.mktemp("deploy"))


def test_a_scheduled_run_appears(server: Server, deployment: dict[str, Any]) -> None:
    wanted = {"deployments": {"id": {"any_": [deployment["id"]]}}}
    runs = _until(lambda: server.ask("/flow_runs/filter", wanted), SCHEDULED_WITHIN_S)
    assert runs[0]["state_type"] == "SCHEDULED"
    assert runs[0]["auto_scheduled"]


def test_one_run_at_a_time_and_a_second_is_cancelled(deployment: dict[str, Any]) -> None:
    assert deployment["global_concurrency_limit"]["limit"] == 1
    assert deployment["concurrency_options"]["collision_strategy"] == "CANCEL_NEW"


def test_a_run_starts_in_the_project_folder(deployment: dict[str, Any]) -> None:
    assert deployment["pull_steps"] == [{"prefect.deployments.steps.set_working_directory": {"directory": str(ROOT)}}]


def test_the_form_starts_from_params_yaml(deployment: dict[str, Any]) -> None:
    written = yaml.safe_load((ROOT / "params.yaml").read_text())
    assert deployment["parameters"]["params"]["dataset"]["target"]["n_train"] == written["dataset"]["target"]["n_train"]
    assert deployment["parameters"]["params"]["register"]["name"] == written["register"]["name"]


def test_the_form_has_ranges_choices_and_explanations(deployment: dict[str, Any]) -> None:
    sections = deployment["parameter_openapi_schema"]["definitions"]
    resolution = sections["DatasetConfig"]["properties"]["resolution_px"]
    assert (resolution["minimum"], resolution["maximum"]) == (8, 512)
    assert resolution["description"]
    assert sections["DatasetConfig"]["properties"]["channels"]["enum"] == [1, 3]
    assert sections["EvaluateConfig"]["properties"]["extractor"]["enum"] == ["lite0", "pixels"]


def test_a_value_out_of_range_is_refused_before_a_run_exists(server: Server, deployment: dict[str, Any]) -> None:
    dataset = {**deployment["parameters"]["params"]["dataset"], "resolution_px": 4}
    parameters = {"params": {"dataset": dataset}}
    with pytest.raises(urllib.error.HTTPError) as refusal:
        server.ask(f"/deployments/{deployment['id']}/create_flow_run", {"parameters": parameters})
    assert b"resolution_px" in refusal.value.read()


def test_the_schedule_is_off_until_the_user_turns_it_on() -> None:
    config = yaml.safe_load((ROOT / "prefect.yaml").read_text())
    (schedule,) = config["deployments"][0]["schedules"]
    assert schedule["active"] is False
    assert "cron" in schedule
