"""Two hosts: network namespaces of this machine, each with an address of its own, and one store that both see."""

import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import psutil
import pytest
from safetensors.torch import load_file

from genxfer.artifacts.store import LocalStore
from tests.conftest import REPOSITORY, GenxferRun, clean_environment, not_possible_here

pytestmark = [pytest.mark.slow]

PORT = 29400
DEADLINE_S = 120.0
OPTIONS = (
    "model.family=vae",  # not a GAN, whose game makes any rounding grow
    "finetune.freeze=auto",
    "compute.precision=fp32",
    "compute.checkpoint_every_s=0.2",
    "pretrain.kimg=2",
)


@dataclass(frozen=True)
class Host:
    """A network namespace with an address of its own."""

    name: str
    address: str


@pytest.fixture
def hosts() -> Iterator[tuple[Host, Host]]:
    """Two hosts on one cable."""
    if os.geteuid() != 0 or shutil.which("ip") is None:
        not_possible_here("network namespaces need root and iproute2")
    own = os.getpid() % 10_000
    network = f"10.{200 + own // 2500}.{own % 250}"
    found = tuple(Host(f"genxfer{own}-{i}", f"{network}.{i}") for i in (1, 2))
    for host in found:
        ip("netns", "add", host.name)
    try:
        ends = [f"gx{own}-{i}" for i in (1, 2)]
        ip("link", "add", ends[0], "type", "veth", "peer", "name", ends[1])
        for host, end in zip(found, ends, strict=True):
            ip("link", "set", end, "netns", host.name)
            ip("-n", host.name, "address", "add", f"{host.address}/24", "dev", end)
            for device in ("lo", end):
                ip("-n", host.name, "link", "set", device, "up")
        yield found[0], found[1]
    finally:
        for host in found:
            for pid in subprocess.run(
                ["ip", "netns", "pids", host.name], capture_output=True, text=True
            ).stdout.split():
                os.kill(int(pid), signal.SIGKILL)
            ip("netns", "delete", host.name)


def ip(*words: str) -> None:
    subprocess.run(["ip", *words], check=True, capture_output=True)


@pytest.fixture
def folders(make_workspace: Callable[..., Path], genxfer: GenxferRun) -> tuple[Path, Path]:
    """A working folder for each host; the source domain is in the store of the first."""
    first, second = make_workspace(*OPTIONS), make_workspace(*OPTIONS)
    done = genxfer(first, "dataset", "source")
    assert done.returncode == 0, done.stderr
    return first, second


def start(host: Host, folder: Path, store: Path, meeting_point: str) -> "subprocess.Popen[str]":
    command = [sys.executable, "-m", "genxfer", "pretrain", "--nodes", "2", "--rdzv", meeting_point]
    return subprocess.Popen(
        ["ip", "netns", "exec", host.name, *command],
        cwd=folder,
        env=clean_environment(folder) | {"PYTHONPATH": str(REPOSITORY), "GENXFER_STORE": str(store)},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def finish(*processes: "subprocess.Popen[str]") -> None:
    for process in processes:
        _, errors = process.communicate(timeout=DEADLINE_S)
        assert process.returncode == 0, errors


def wait_for_checkpoint(store: Path, processes: tuple["subprocess.Popen[str]", ...], after: set[Path]) -> set[Path]:
    """Wait until a checkpoint is there that was not before, and return all there are."""
    deadline = time.monotonic() + DEADLINE_S
    while not (found := set((store / "work" / "pretrain").glob("*/checkpoint-*.safetensors"))) - after:
        for process in processes:
            assert process.poll() is None, process.communicate()
        assert time.monotonic() < deadline, "no checkpoint appeared"
        time.sleep(0.02)
    return found


def outputs(store: Path) -> dict[str, Path]:
    """Return the files of the one pretraining in the store."""
    [record] = LocalStore(store).records("pretrain")
    assert record.facts["images_seen"] == 2000
    return {name: LocalStore(store).read(ref) for name, ref in record.outputs.items()}


def test_two_hosts_train_what_one_would_and_come_back_when_a_rank_or_a_host_dies(
    hosts: tuple[Host, Host], folders: tuple[Path, Path], make_workspace: Callable[..., Path], genxfer: GenxferRun
) -> None:
    (first, second), (own, other) = hosts, folders
    store, meeting_point = own / ".genxfer" / "store", f"{first.address}:{PORT}"
    lending = start(second, other, store, meeting_point)  # it may well be there first
    leading = start(first, own, store, meeting_point)
    seen = wait_for_checkpoint(store, (leading, lending), set())

    # A rank of one host dies: both hosts start theirs again, from the checkpoint.
    [rank] = [
        process
        for process in psutil.Process(lending.pid).children(recursive=True)
        if "genxfer.launch.worker" in process.cmdline() and "-u" in process.cmdline()
    ]
    rank.kill()
    seen = wait_for_checkpoint(store, (leading, lending), seen)

    # A host dies, and comes back.
    lending.kill()
    lending.wait()
    lending = start(second, other, store, meeting_point)
    finish(leading, lending)

    alone = make_workspace(*OPTIONS)
    assert genxfer(alone, "dataset", "source").returncode == 0
    assert genxfer(alone, "pretrain").returncode == 0
    weights = load_file(outputs(store)["snapshot.safetensors"])
    expected = load_file(outputs(alone / ".genxfer" / "store")["snapshot.safetensors"])
    for name, tensor in expected.items():  # rounding was seen to make 2e-3
        assert tensor.allclose(weights[name], rtol=1e-2, atol=1e-2), name
    for folder in folders:
        assert (folder / "artifacts" / "pretrain" / "snapshot.safetensors").exists()
