"""compose.yaml: true to the specification, every secret from outside, nothing open to other machines."""

import re
from typing import Any

import pytest
import yaml
from compose_spec import PyCompose
from compose_spec.models import ComposeSpecification

from tests.infra.compose import COMPOSE, NO_SECRETS, compose, example, filled_in

SECRET = re.compile(r"PASSWORD|SECRET|AUTH_STRING|ACCESS_KEY|WEBHOOK")


def checked(text: str) -> ComposeSpecification:
    """Return the file as the specification understands it."""
    parsed = PyCompose.from_yaml(text)
    parsed.validate()
    return ComposeSpecification.model_validate(parsed.to_dict())


def as_text(config: dict[str, Any]) -> str:
    return yaml.safe_dump({key: value for key, value in config.items() if not key.startswith("x-")})


@pytest.fixture(scope="module")
def config() -> dict[str, Any]:
    return compose(filled_in())


def test_it_is_true_to_the_specification(config: dict[str, Any]) -> None:
    assert len(checked(as_text(config)).services or {}) == 7


@pytest.mark.parametrize(
    ("service", "key", "value"),
    [
        ("prefect", "depends_on", {"postgres": {"condition": "service_ready"}}),
        ("prefect", "ports", ["127.0.0.1:99999:4200"]),
        ("prefect", "comand", ["prefect"]),
        ("prefect", "healthcheck", {"test": ["CMD", "true"], "interval": "often"}),
        ("postgres", "networks", ["undeclared"]),
    ],
)
def test_a_slip_would_be_noticed(config: dict[str, Any], service: str, key: str, value: Any) -> None:
    wrong = yaml.safe_load(yaml.safe_dump(config))
    wrong["services"][service][key] = value
    with pytest.raises((ValueError, RuntimeError)):
        checked(as_text(wrong))


def test_every_volume_is_declared_and_used(config: dict[str, Any]) -> None:
    mounted = [volume.split(":")[0] for service in config["services"].values() for volume in service.get("volumes", [])]
    assert {name for name in mounted if "/" not in name} == set(config["volumes"])
    assert all((COMPOSE.parent / name).is_file() for name in mounted if "/" in name)


def test_nothing_starts_while_a_secret_is_missing() -> None:
    secret = [name for name, value in example().items() if not value and name not in NO_SECRETS]
    assert len(secret) >= 8
    for name in secret:
        with pytest.raises(KeyError, match=name):
            compose(filled_in() | {name: ""})


def test_no_secret_stands_in_the_file() -> None:
    services = yaml.safe_load(COMPOSE.read_text())["services"]
    for service in services.values():
        for name, value in service.get("environment", {}).items():
            if SECRET.search(name):
                assert re.fullmatch(r"\$\{\w+:(\?.+|-)\}", value), f"{name}: {value}"


def test_every_variable_is_explained_in_the_example() -> None:
    assert set(re.findall(r"\$\{(\w+)", COMPOSE.read_text())) | {"COMPOSE_PROFILES"} == set(example())


def test_ports_are_open_on_the_loopback_interface_alone(config: dict[str, Any]) -> None:
    ports = [port for service in config["services"].values() for port in service.get("ports", [])]
    assert len(ports) == 3
    assert all(port.startswith("127.0.0.1:") for port in ports)
    assert all("network_mode" not in service for service in config["services"].values())


def test_only_mlflow_and_the_workers_reach_the_ports_of_the_storage_that_ask_for_no_key(config: dict[str, Any]) -> None:
    services = config["services"]
    shared = set(services["seaweedfs"]["networks"])
    reached = {name for name, service in services.items() if shared & set(service["networks"])}
    assert reached == {"seaweedfs", "mlflow", "worker", "worker-cpu"}
    for service in services.values():
        for name in service.get("depends_on", {}):
            assert set(service["networks"]) & set(services[name]["networks"])


def test_who_waits_for_a_service_waits_until_it_is_well(config: dict[str, Any]) -> None:
    services = config["services"]
    for service in services.values():
        for name, how in service.get("depends_on", {}).items():
            if how["condition"] == "service_healthy":
                assert services[name]["healthcheck"]["test"]
            else:
                assert (how["condition"], services[name]["restart"]) == ("service_completed_successfully", "no")


def test_every_container_of_ours_is_read_only_without_rights(config: dict[str, Any]) -> None:
    own = [service for service in config["services"].values() if "genxfer" in service["image"]]
    assert len(own) == 6
    for service in own:
        assert service["read_only"]
        assert service["cap_drop"] == ["ALL"]
        assert service["security_opt"] == ["no-new-privileges:true"]
        assert not service.get("privileged")


def test_the_gpus_are_for_one_worker_and_another_does_without(config: dict[str, Any]) -> None:
    workers = {name: service for name, service in config["services"].items() if service.get("profiles")}
    [devices] = workers["worker"].pop("deploy")["resources"]["reservations"]["devices"]
    assert (devices["driver"], devices["count"], devices["capabilities"]) == ("nvidia", "all", ["gpu"])
    assert (workers["worker"].pop("profiles"), workers["worker-cpu"].pop("profiles")) == (["gpu"], ["cpu"])
    assert workers["worker"] == workers["worker-cpu"]
    assert example()["COMPOSE_PROFILES"] == "gpu"


def test_images_have_versions(config: dict[str, Any]) -> None:
    for service in config["services"].values():
        name, _, version = service["image"].rpartition(":")
        assert name
        assert re.match(r"\d+\.\d+", version)
