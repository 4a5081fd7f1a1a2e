"""prefect.yaml against a real server with its schedules: the deployment, its form, and a run that nobody started."""

import urllib.error
from pathlib import Path
from typing import Any

import pytest
import yaml

from genxfer.metrics import EXTRACTORS
from tests.conftest import REPOSITORY
from tests.flows.conftest import Server
from tests.waiting import until

SCHEDULED_WITHIN_S = 30

pytestmark = [pytest.mark.slow, pytest.mark.service]


@pytest.fixture(scope="module")
def deployment(server: Server, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """The deployment of prefect.yaml as it stands, but with its schedule turned on."""
    config = yaml.safe_load((REPOSITORY / "prefect.yaml").read_text())
    config["deployments"][0]["schedules"][0]["active"] = True
    return server.deploy(config, tmp_path_factory.mktemp("deploy"), REPOSITORY)


def test_a_scheduled_run_appears(server: Server, deployment: dict[str, Any]) -> None:
    wanted = {"deployments": {"id": {"any_": [deployment["id"]]}}}
    runs = until(lambda: server.ask("/flow_runs/filter", wanted), SCHEDULED_WITHIN_S)
    assert runs[0]["state_type"] == "SCHEDULED"
    assert runs[0]["auto_scheduled"]


def test_one_run_at_a_time_and_a_second_is_cancelled(deployment: dict[str, Any]) -> None:
    assert deployment["global_concurrency_limit"]["limit"] == 1
    assert deployment["concurrency_options"]["collision_strategy"] == "CANCEL_NEW"


def test_a_run_starts_in_the_project_folder(deployment: dict[str, Any]) -> None:
    assert deployment["pull_steps"] == [
        {"prefect.deployments.steps.set_working_directory": {"directory": str(REPOSITORY)}}
    ]


def test_the_form_starts_from_params_yaml(deployment: dict[str, Any]) -> None:
    written = yaml.safe_load((REPOSITORY / "params.yaml").read_text())
    assert deployment["parameters"]["params"]["dataset"]["target"]["n_train"] == written["dataset"]["target"]["n_train"]
    assert deployment["parameters"]["params"]["register"]["name"] == written["register"]["name"]


def test_the_form_has_ranges_choices_and_explanations(deployment: dict[str, Any]) -> None:
    sections = deployment["parameter_openapi_schema"]["definitions"]
    resolution = sections["DatasetConfig"]["properties"]["resolution_px"]
    assert (resolution["minimum"], resolution["maximum"]) == (8, 256)
    assert resolution["description"]
    assert sections["DatasetConfig"]["properties"]["channels"]["enum"] == [1, 3]
    assert sections["EvaluateConfig"]["properties"]["extractor"]["enum"] == list(EXTRACTORS)


def test_a_value_out_of_range_is_refused_before_a_run_exists(server: Server, deployment: dict[str, Any]) -> None:
    dataset = {**deployment["parameters"]["params"]["dataset"], "resolution_px": 4}
    parameters = {"params": {"dataset": dataset}}
    with pytest.raises(urllib.error.HTTPError) as refusal:
        server.ask(f"/deployments/{deployment['id']}/create_flow_run", {"parameters": parameters})
    assert b"resolution_px" in refusal.value.read()


def test_the_schedule_is_off_until_the_user_turns_it_on_and_then_stays_on(server: Server, tmp_path: Path) -> None:
    config = yaml.safe_load((REPOSITORY / "prefect.yaml").read_text())
    config["deployments"] = [config["deployments"][0] | {"name": "schedule"}]
    config["build"][1]["flows.deployment.read_schedule"]["deployment"] = "transfer/schedule"
    deployed = [server.deploy(config, tmp_path, REPOSITORY, "schedule")]
    for choice in (True, False):
        (schedule,) = deployed[-1]["schedules"]
        server.ask(f"/deployments/{deployed[-1]['id']}/schedules/{schedule['id']}", {"active": choice}, "PATCH")
        deployed.append(server.deploy(config, tmp_path, REPOSITORY, "schedule"))
    assert [[schedule["active"] for schedule in one["schedules"]] for one in deployed] == [[False], [True], [False]]
    assert deployed[0]["schedules"][0]["schedule"]["cron"]
