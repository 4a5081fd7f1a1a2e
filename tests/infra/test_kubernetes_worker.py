"""Prefect's Kubernetes worker with the manifests' commands: a run becomes a Job, within the Role's rights."""

import os
import socket
import subprocess
import urllib.error
import urllib.request
from collections.abc import Iterator
from pathlib import Path

import kubernetes_validate
import pytest
from prefect.settings.models.worker import WorkerWebserverSettings

from tests.conftest import REPOSITORY
from tests.flows.conftest import Server, until
from tests.flows.conftest import server as server  # a fixture
from tests.infra.cluster import Cluster, cluster
from tests.infra.manifests import Object, Rendered, one

pytestmark = [pytest.mark.slow, pytest.mark.service]

WITHIN_S = 240


@pytest.fixture
def api(rendered: Rendered) -> Iterator[Cluster]:
    with cluster(one(rendered("gpu"), "Role", "genxfer-worker")) as found:
        yield found


def environment(container: Object, objects: list[Object], server: Server) -> dict[str, str]:
    """Return the variables of a container of the worker's pod, its secret filled in, with the tests' own server."""
    settings = dict(one(objects, "ConfigMap", "genxfer")["data"])
    secrets = dict.fromkeys(one(objects, "Secret", "genxfer")["data"], "team:s3cret")
    own = {entry["name"]: entry["value"] for entry in container["env"]}
    here = {"PREFECT_API_URL": server.url, "PYTHONPATH": os.environ.get("PYTHONPATH") or str(REPOSITORY)}
    return server.environment | settings | secrets | own | here


def test_a_run_becomes_a_job_and_the_worker_asks_for_nothing_that_it_may_not(
    server: Server, api: Cluster, rendered: Rendered, image: Path, tmp_path: Path
) -> None:
    objects = rendered("gpu")
    pod = one(objects, "Deployment", "genxfer-worker")["spec"]["template"]["spec"]
    [deploy], [worker] = pod["initContainers"], pod["containers"]
    template = tmp_path / "job-template.json"
    template.write_text(one(objects, "ConfigMap", "genxfer-job-template")["data"]["job-template.json"])
    server.ask("/work_pools/genxfer", method="DELETE")
    command = [str(template) if word.startswith("/etc/genxfer/") else word for word in deploy["args"]]
    for _ in range(2):  # the second time everything is there already
        done = subprocess.run(
            command, cwd=image, env=environment(deploy, objects, server), capture_output=True, text=True
        )
        assert done.returncode == 0, done.stdout + done.stderr
    deployment = server.ask("/deployments/name/transfer/transfer")
    server.ask(f"/deployments/{deployment['id']}/create_flow_run", {})

    variables = environment(worker, objects, server) | {
        "KUBECONFIG": str(api.kubeconfig(tmp_path / "kubeconfig")),
        "PREFECT_WORKER_WEBSERVER_PORT": str(free_port()),
    }
    with (tmp_path / "worker.log").open("wb") as log:
        process = subprocess.Popen(worker["args"], cwd=image, env=variables, stdout=log, stderr=log)
    try:
        until(lambda: api.created or process.poll() is not None, WITHIN_S)
        assert process.poll() is None, (tmp_path / "worker.log").read_text()
        until(lambda: {("jobs", "watch"), ("pods", "watch")} <= api.asked, WITHIN_S)
        until(lambda: lives(worker, variables), WITHIN_S)
    finally:
        process.terminate()
        process.wait(60)
    assert api.refused == [], (tmp_path / "worker.log").read_text()
    check(api.created[0])


def lives(worker: Object, variables: dict[str, str]) -> bool:
    """Return what the kubelet is answered, asked as the probe says; on the port of `variables`, not on the pod's."""
    probe = worker["livenessProbe"]["httpGet"]
    [port] = [found["containerPort"] for found in worker["ports"] if found["name"] == probe["port"]]
    default = WorkerWebserverSettings()
    assert (default.host, default.port) == ("0.0.0.0", port)  # the kubelet asks from outside the pod
    url = f"http://127.0.0.1:{variables['PREFECT_WORKER_WEBSERVER_PORT']}{probe['path']}"
    try:
        with urllib.request.urlopen(url, timeout=worker["livenessProbe"]["timeoutSeconds"]) as answer:
            return bool(answer.status == 200)
    except urllib.error.HTTPError as error:
        if error.code != 503:  # how it says that it is not well
            raise
        return False
    except OSError:  # a busy machine; the kubelet would ask again, too
        return False


def check(job: Object) -> None:
    del job["metadata"]["uid"], job["metadata"]["name"]
    for misplaced in ("parallelism", "completions"):  # of the pod: Prefect's worker insists on them
        assert job["spec"]["template"]["spec"].pop(misplaced) == 1
    kubernetes_validate.validate(job, "1.37", strict=True)
    [container] = job["spec"]["template"]["spec"]["containers"]
    assert container["image"] == "registry.example/genxfer:0.1.0"
    assert container["resources"]["limits"]["nvidia.com/gpu"] == 1
    [auth] = [entry for entry in container["env"] if entry["name"] == "PREFECT_API_AUTH_STRING"]
    assert auth == {
        "name": "PREFECT_API_AUTH_STRING",
        "valueFrom": {"secretKeyRef": {"name": "genxfer", "key": "PREFECT_API_AUTH_STRING"}},
    }
    assert "s3cret" not in str(job)


def free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as free:
        return int(free.getsockname()[1])
