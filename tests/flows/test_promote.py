"""The flow `promote` with a real Prefect server and a real registry: its states, its artifacts, its alert, its form."""

import json
import subprocess
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
import yaml

from genxfer.registry.config import ModelPackage, RegisterConfig
from genxfer.registry.models import register
from tests.conftest import REPOSITORY
from tests.flows.conftest import Server
from tests.listener import listening
from tests.registry.conftest import client, make_package, store_uri, write_snapshot  # noqa: F401  fixtures
from tests.registry.test_rule import MEASURED

if TYPE_CHECKING:
    from mlflow import MlflowClient

pytestmark = [pytest.mark.slow, pytest.mark.service]

RUN = """
import json, sys
from genxfer.config import load_params
from flows.promote import promote
print(json.dumps(promote(load_params(overrides=["register.name=flown"]))))
"""


def run_flow(server: Server, folder: Path, uri: str, webhook: str) -> dict[str, object]:
    environment = server.environment | {"MLFLOW_TRACKING_URI": uri, "GENXFER_WEBHOOK_URL": webhook}
    command = [sys.executable, "-c", RUN]
    done = subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    outcome: dict[str, object] = json.loads(done.stdout.splitlines()[-1])
    return outcome


def test_the_flow_promotes_and_shows_both_models_and_a_refusal_is_no_failure(
    server: Server,
    client: "MlflowClient",  # noqa: F811
    store_uri: str,  # noqa: F811
    workspace: Path,
    tmp_path: Path,
    make_package: Callable[..., ModelPackage],  # noqa: F811
) -> None:
    def registered(number: int, kid: float) -> None:
        package = make_package(tmp_path / str(number), f"fp-flow-{number}")
        register(replace(package, measured=MEASURED | {"kid": kid}), RegisterConfig(name="flown"))

    registered(1, 0.2)
    client.set_registered_model_alias("flown", "champion", "1")
    registered(2, 0.1)
    with listening() as listener:
        assert run_flow(server, workspace, store_uri, listener.url)["state"] == "promoted"
        registered(3, 0.09)
        assert run_flow(server, workspace, store_uri, listener.url)["state"] == "not promoted"
    [told] = listener.received  # of the promotion alone
    assert told["event"] == "promoted"
    assert told["text"].startswith("genxfer: version 2 of flown is champion in place of version 1. KID 0.1")
    assert told["details"]["champion"] == "2"
    assert {alias: str(version) for alias, version in client.get_registered_model("flown").aliases.items()} == {
        "challenger": "3",
        "champion": "2",
        "previous": "1",
    }

    tasks = server.ask("/task_runs/filter", {"sort": "EXPECTED_START_TIME_DESC"})
    assert {task["state_name"] for task in tasks} == {"Promoted", "Not promoted"}
    assert {task["state_type"] for task in tasks} == {"COMPLETED"}
    shown = server.ask("/artifacts/filter", {"artifacts": {"key": {"any_": ["promotion"]}}})
    pages = sorted((page["data"] for page in shown), key=len)
    assert len(pages) == 2
    assert all(page.count("data:image/png;base64,") == 2 for page in pages)
    assert any("### version 1, champion until now" in page for page in pages)


def test_the_deployment_has_a_form_with_the_rule(server: Server, tmp_path: Path) -> None:
    server.deploy(yaml.safe_load((REPOSITORY / "prefect.yaml").read_text()), tmp_path, REPOSITORY)
    deployment = server.ask("/deployments/name/promote/promote")
    schema = deployment["parameter_openapi_schema"]
    rule = schema["definitions"]["PromoteConfig"]["properties"]["confidence"]
    assert (rule["minimum"], rule["maximum"]) == (0.5, 0.9999)
    assert rule["description"]
    assert set(schema["properties"]) == {"params", "name", "dry_run"}
    assert deployment["global_concurrency_limit"]["limit"] == 1
