"""The training Job on two hosts of one cable: its command and environment, one pod evicted, the result of one."""

import os
import shutil
import signal
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from safetensors.torch import load_file

from genxfer.artifacts.local import LocalStore
from genxfer.stages import STAGES
from tests.conftest import TINY, write_params
from tests.infra.containers import Container, Network, entrypoint, network
from tests.infra.manifests import Object, Rendered, mounted, one
from tests.launch.test_hosts import OPTIONS
from tests.waiting import until

pytestmark = [pytest.mark.slow, pytest.mark.timeout(1500)]

DEADLINE_S = 600  # a busy machine; all stages of two hosts
COMPARED = ["dataset", "pretrain"]  # the stages that one host runs alone


@pytest.fixture
def project(image: Path, tmp_path: Path) -> Path:
    """The image of somebody whose parameters train for seconds."""
    folder = tmp_path / "image"
    shutil.copytree(image, folder)
    write_params(folder / "params.yaml", (*TINY, *OPTIONS))
    return folder


@pytest.fixture
def hosts(rendered: Rendered, tmp_path: Path) -> Iterator[list[Network]]:
    """Two hosts; the first one knows the pods' names, as the headless service makes them known."""
    job = one(rendered("multi-node"), "Job", "genxfer-train")
    own = os.getpid() % 10_000
    addresses = [f"10.{200 + own // 2500}.{own % 250}.{i}" for i in (1, 2)]
    domain = job["spec"]["template"]["spec"]["subdomain"]
    names = {f"{job['metadata']['name']}-{index}.{domain}": address for index, address in enumerate(addresses)}
    first, second = (f"genxfer-pod{own}-{index}" for index in (0, 1))
    with network(first, tmp_path, names) as one_end, network(second, tmp_path, {}) as other_end:
        ends = [f"gp{own}-{index}" for index in (0, 1)]
        ip("link", "add", ends[0], "type", "veth", "peer", "name", ends[1])
        for name, end, address in zip((first, second), ends, addresses, strict=True):
            ip("link", "set", end, "netns", name)
            ip("-n", name, "address", "add", f"{address}/24", "dev", end)
            ip("-n", name, "link", "set", end, "up")
        yield [one_end, other_end]


def ip(*words: str) -> None:
    subprocess.run(["ip", *words], check=True, capture_output=True)


def pod(job: Object, index: int, project: Path, volume: Path) -> Container:
    """Return what Kubernetes starts for `index`: the Job's command, all its stages, its variables and its volume."""
    [container] = job["spec"]["template"]["spec"]["containers"]
    command = [*container["command"], *container["args"]]
    assert command[0] == entrypoint()[0]  # which is there
    environment = {entry["name"]: entry["value"] for entry in container["env"]} | {"JOB_COMPLETION_INDEX": str(index)}
    return Container(project, command, environment | tracking(), mounted(container, volume))


def tracking() -> dict[str, str]:
    return {"MLFLOW_TRACKING_URI": "sqlite:////project/.genxfer/mlflow.db"}


def make_names_known(hosts: list[Network]) -> None:
    """Let the second host know what the first one knows, in the file that its containers read already."""
    known, unknown = (Path("/etc/netns") / host.name / "hosts" for host in hosts)
    unknown.write_bytes(known.read_bytes())


def wait_for_checkpoint(volume: Path, processes: list["subprocess.Popen[bytes]"], log: Path) -> None:
    deadline = time.monotonic() + DEADLINE_S
    while not list((volume / "store" / "store" / "work" / "pretrain").glob("*/checkpoint-*.safetensors")):
        assert all(process.poll() is None for process in processes), log.read_text()
        assert time.monotonic() < deadline, log.read_text()
        time.sleep(0.05)


def results(volume: Path) -> LocalStore:
    return LocalStore(volume / "store" / "store")


def snapshot(volume: Path) -> dict[str, Any]:
    store = results(volume)
    [record] = store.records("pretrain")
    assert record.facts["images_seen"] == 2000
    return load_file(store.read(record.outputs["snapshot.safetensors"]))


def test_two_pods_train_what_one_would_whichever_starts_first_and_an_evicted_one_comes_back(
    hosts: list[Network], project: Path, rendered: Rendered, tmp_path: Path
) -> None:
    job = one(rendered("multi-node"), "Job", "genxfer-train")
    volume, alone, log = tmp_path / "volume", tmp_path / "alone", tmp_path / "pods.log"
    later = hosts[1].start(pod(job, 1, project, volume), log)
    until(lambda: "which is not known yet" in log.read_text() or later.poll() is not None, DEADLINE_S)
    assert later.poll() is None, log.read_text()  # its leading pod has no name as long as it is not there
    make_names_known(hosts)
    running = [hosts[0].start(pod(job, 0, project, volume), log), later]
    wait_for_checkpoint(volume, running, log)

    running[1].send_signal(signal.SIGTERM)  # the container's first process alone, as Kubernetes does
    assert running[1].wait(60) == 143, log.read_text()  # whose eviction Kubernetes does not count
    running[1] = hosts[1].start(pod(job, 1, project, volume), log)
    assert [process.wait(DEADLINE_S) for process in running] == [0, 0], log.read_text()
    [registered] = results(volume).records("register")  # by one of the two
    assert registered.facts["version"] == "1"
    assert {record.stage for record in results(volume).all_records()} == set(STAGES)

    of_one = Container(project, ["infra/train.sh", *COMPARED], tracking(), pod(job, 0, project, alone).volumes)
    code, said = hosts[0].run(of_one, DEADLINE_S)
    assert code == 0, said
    expected, weights = snapshot(alone), snapshot(volume)
    for name, tensor in expected.items():  # rounding was seen to make 2e-3
        assert tensor.allclose(weights[name], rtol=1e-2, atol=1e-2), name

    # The Job once more, its first host alone: everything is in the store, so that nobody is waited for.
    before = {(record.stage, record.fingerprint) for record in results(volume).all_records()}
    code, said = hosts[0].run(pod(job, 0, project, volume), DEADLINE_S)
    assert code == 0, said
    assert {(record.stage, record.fingerprint) for record in results(volume).all_records()} == before
    snapshot(volume)


def test_a_wrong_parameter_ends_with_the_code_that_ends_the_job(
    hosts: list[Network], project: Path, rendered: Rendered, tmp_path: Path
) -> None:
    job = one(rendered("multi-node"), "Job", "genxfer-train")
    parameters = project / "params.yaml"
    parameters.write_text(parameters.read_text().replace("family: vae", "family: vea"))
    code, said = hosts[0].run(pod(job, 0, project, tmp_path / "volume"), DEADLINE_S)
    assert code in job["spec"]["podFailurePolicy"]["rules"][1]["onExitCodes"]["values"], said
    assert "vea" in said
