"""The Job of a flow run, with the worker's deployments: evicted in mid-training, and started once more."""

import os
import signal
import subprocess
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import pytest
from prefect.client.schemas.objects import FlowRun

from genxfer.artifacts.local import LocalStore
from tests.flows.conftest import Server, until
from tests.flows.conftest import server as server  # a fixture
from tests.infra.containers import Container, OwnProcesses, entrypoint, first_process, own_processes
from tests.infra.manifests import Object, Rendered, mounted, one
from tests.infra.test_kubernetes import flow_run_job
from tests.listener import Listener, listening

pytestmark = [pytest.mark.slow, pytest.mark.service, pytest.mark.timeout(1500)]

DEADLINE_S = 600  # a busy machine
GRACE_S = 60  # the template's terminationGracePeriodSeconds


@pytest.fixture
def machine(tmp_path: Path) -> Iterator[OwnProcesses]:
    with own_processes(f"genxfer-run{os.getpid()}", tmp_path) as found:
        yield found


@pytest.fixture
def listener() -> Iterator[Listener]:
    with listening() as found:
        yield found


def settings(objects: list[Object], server: Server, listener: Listener) -> dict[str, str]:
    """Return the variables of the ConfigMap and of the Secret, with the servers of the tests."""
    secrets: dict[str, str] = dict.fromkeys(one(objects, "Secret", "genxfer")["data"], "team:s3cret")
    here = {
        "PREFECT_API_URL": server.url,
        "MLFLOW_TRACKING_URI": "sqlite:////project/.genxfer/mlflow.db",
        "GENXFER_WEBHOOK_URL": listener.url,
    }
    return one(objects, "ConfigMap", "genxfer")["data"] | secrets | here


def deploy(machine: OwnProcesses, image: Path, objects: list[Object], environment: Mapping[str, str]) -> None:
    """Do what the worker's first container does, which makes the work pool and the deployments."""
    [container] = one(objects, "Deployment", "genxfer-worker")["spec"]["template"]["spec"]["initContainers"]
    template = machine.folder / "job-template.json"
    template.write_text(one(objects, "ConfigMap", "genxfer-job-template")["data"]["job-template.json"])
    # Mounted elsewhere, as /etc is this machine's.
    command = ["/tmp/job-template.json" if word.startswith("/etc/genxfer/") else word for word in container["args"]]
    own = {entry["name"]: entry["value"] for entry in container["env"]}
    volumes = {"/tmp/job-template.json": template}
    code, said = machine.run(Container(image, [*entrypoint(), *command], {**environment, **own}, volumes), DEADLINE_S)
    assert code == 0, said


def begin(server: Server, params: dict[str, Any]) -> FlowRun:
    """Ask for a run of the deployment `transfer`."""
    deployment = server.ask("/deployments/name/transfer/transfer")["id"]
    run = server.ask(f"/deployments/{deployment}/create_flow_run", {"parameters": {"params": params}})
    return FlowRun.model_validate(run)


def start(machine: OwnProcesses, server: Server, run: FlowRun, pod: Container, log: Path) -> "subprocess.Popen[bytes]":
    """Do what the worker does with a run of the queue: take it, and with it the deployment's slot; start its pod."""
    taken = server.ask(f"/flow_runs/{run.id}/set_state", {"state": {"type": "PENDING"}})
    assert (taken["status"], taken["state"]["type"]) == ("ACCEPT", "PENDING"), taken
    return machine.start(pod, log)


def state(server: Server, run: FlowRun) -> tuple[str, str]:
    found = server.ask(f"/flow_runs/{run.id}")["state"]
    return found["type"], found["name"]


def slots_taken(server: Server) -> int:
    found: int = server.ask("/deployments/name/transfer/transfer")["global_concurrency_limit"]["active_slots"]
    return found


def test_an_evicted_flow_run_goes_back_to_the_queue_and_on_from_its_checkpoint(
    machine: OwnProcesses,
    server: Server,
    listener: Listener,
    rendered: Rendered,
    image: Path,
    tiny: dict[str, Any],
    tmp_path: Path,
) -> None:
    objects = rendered("cpu")
    environment = settings(objects, server, listener)
    server.ask("/work_pools/genxfer", method="DELETE")
    deploy(machine, image, objects, environment)
    longer = {"kimg": 8, "report_every_kimg": 0.5}
    params = tiny | {
        "pretrain": tiny["pretrain"] | longer,
        "compute": tiny["compute"] | {"checkpoint_every_s": 0.2},
    }
    run = begin(server, params)
    job = flow_run_job(objects, run, server.url)["spec"]["template"]["spec"]
    [container] = job["containers"]
    assert job["terminationGracePeriodSeconds"] == GRACE_S
    own = {entry["name"]: entry["value"] for entry in container["env"] if "value" in entry}
    volumes = mounted(container, tmp_path / "volume")
    pod = Container(image, [*entrypoint(), *container["args"]], environment | own, volumes)
    store, log = tmp_path / "volume" / "store" / "store", tmp_path / "pods.log"

    first = start(machine, server, run, pod, log)
    until(lambda: first.poll() is not None or [*store.glob("work/pretrain/*/checkpoint-*.safetensors")], DEADLINE_S)
    assert first.poll() is None, log.read_text()
    assert (state(server, run), slots_taken(server)) == (("RUNNING", "Running"), 1)
    first_process(first).send_signal(signal.SIGTERM)
    assert first.wait(GRACE_S) == 0, log.read_text()
    assert (state(server, run), slots_taken(server)) == (("SCHEDULED", "AwaitingRetry"), 0), log.read_text()
    assert LocalStore(store).records("pretrain") == []

    second = start(machine, server, run, pod, log)
    assert second.wait(DEADLINE_S) == 0, log.read_text()
    assert state(server, run) == ("COMPLETED", "Completed"), log.read_text()
    [record] = LocalStore(store).records("pretrain")
    assert record.facts["resumed_from"] > 0
    assert record.facts["images_seen"] == 8000
    assert listener.received == []  # nothing went wrong
