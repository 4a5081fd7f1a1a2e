"""Ctrl-C, kill -9 and two at once, on the real command line: nothing half-published, nothing lost, nothing twice."""

import json
import os
import pty
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import psutil
import pytest
from safetensors.torch import load_file

from genxfer.artifacts.store import LocalStore
from tests.conftest import REPOSITORY, GenxferRun, clean_environment
from tests.pseudo_terminal import take_terminal

pytestmark = [pytest.mark.slow]

LONGER = ("pretrain.kimg=6", "pretrain.report_every_kimg=0.5", "compute.checkpoint_every_s=0.2")
DEADLINE_S = 120.0


@pytest.fixture
def prepared(make_workspace: Callable[..., Path], genxfer: GenxferRun) -> Path:
    """A working folder whose source domain is packed, with a pretraining of a few seconds ahead."""
    folder = make_workspace(*LONGER)
    done = genxfer(folder, "dataset", "source")
    assert done.returncode == 0, done.stderr
    return folder


@pytest.fixture(scope="module")
def undisturbed(make_workspace: Callable[..., Path], genxfer: GenxferRun) -> str:
    """The digest of the weights that the same training ends with when nobody disturbs it."""
    folder = make_workspace(*LONGER)
    assert genxfer(folder, "dataset", "source").returncode == 0
    assert genxfer(folder, "pretrain").returncode == 0
    return weights(folder)


def start(folder: Path, *arguments: str, terminal: int | None = None) -> "subprocess.Popen[str]":
    return subprocess.Popen(
        [sys.executable, "-m", "genxfer", *arguments],
        cwd=folder,
        env=clean_environment(folder) | {"PYTHONPATH": str(REPOSITORY)},
        stdin=terminal,
        stdout=subprocess.PIPE if terminal is None else terminal,
        stderr=subprocess.PIPE if terminal is None else terminal,
        text=True,
        start_new_session=terminal is not None,
        preexec_fn=None if terminal is None else take_terminal,
    )


def wait_for_checkpoint(folder: Path, process: "subprocess.Popen[str]") -> None:
    wait_for(lambda: checkpoints(folder), process)


def wait_for(appeared: Callable[[], object], process: "subprocess.Popen[str]") -> None:
    deadline = time.monotonic() + DEADLINE_S
    while not appeared():
        assert process.poll() is None, process.communicate()
        assert time.monotonic() < deadline, "nothing appeared"
        time.sleep(0.02)


def checkpoints(folder: Path) -> list[Path]:
    return list(work(folder).glob("*/checkpoint-*.safetensors"))


def work(folder: Path) -> Path:
    return folder / ".genxfer" / "store" / "work" / "pretrain"


def weights(folder: Path) -> str:
    [record] = LocalStore(folder / ".genxfer" / "store").records("pretrain")
    return record.outputs["snapshot.safetensors"].digest


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGKILL])
def test_an_interrupted_training_goes_on_to_the_same_bits(
    prepared: Path, genxfer: GenxferRun, undisturbed: str, number: int
) -> None:
    process = start(prepared, "pretrain")
    wait_for_checkpoint(prepared, process)
    children = psutil.Process(process.pid).children(recursive=True)
    os.kill(process.pid, number)
    _, errors = process.communicate(timeout=60)
    assert process.returncode == {signal.SIGINT: 130, signal.SIGTERM: 143, signal.SIGKILL: -9}[number]
    assert "Traceback" not in errors
    assert [child for child in children if child.is_running()] == []
    assert LocalStore(prepared / ".genxfer" / "store").records("pretrain") == []
    assert not (prepared / "artifacts" / "pretrain").exists()

    again = genxfer(prepared, "pretrain")
    assert again.returncode == 0, again.stderr
    assert "going on from the checkpoint" in again.stderr
    assert weights(prepared) == undisturbed


def test_a_closed_terminal_leaves_a_checkpoint(make_workspace: Callable[..., Path], genxfer: GenxferRun) -> None:
    folder = make_workspace(*LONGER, "compute.checkpoint_every_s=1000")  # none of its own accord
    assert genxfer(folder, "dataset", "source").returncode == 0
    ours, theirs = pty.openpty()
    process = start(folder, "pretrain", terminal=theirs)
    os.close(theirs)
    wait_for(lambda: [curves for curves in work(folder).glob("*/curves.csv") if curves.stat().st_size], process)
    assert checkpoints(folder) == []
    os.close(ours)
    assert process.wait(60) == 129
    assert checkpoints(folder)


def test_of_two_runs_that_want_the_same_one_works_and_the_other_waits_and_hits(prepared: Path) -> None:
    both = [start(prepared, "pretrain", "--json") for _ in range(2)]
    outputs = [process.communicate(timeout=DEADLINE_S) for process in both]
    assert [process.returncode for process in both] == [0, 0], outputs
    states = sorted(json.loads(answer)["pretrain"]["state"] for answer, _ in outputs)
    assert states == ["cached", "ran"]


def test_two_processes_terminated_within_ten_seconds_and_one_goes_on(
    make_workspace: Callable[..., Path], genxfer: GenxferRun
) -> None:
    """Weights are those of one process throughout, within rounding: so were the images and the noise."""
    # Not a GAN: its game makes any rounding grow.
    family = ("model.family=vae", "finetune.freeze=auto")
    # No checkpoint of its own accord: one that is there was written because of the signal.
    options = (*LONGER, *family, "pretrain.kimg=4", "compute.precision=fp32", "compute.checkpoint_every_s=1000")
    whole, folder = make_workspace(*options), make_workspace(*options)
    for place in (whole, folder):
        assert genxfer(place, "dataset", "source").returncode == 0
    assert genxfer(whole, "pretrain").returncode == 0

    process = start(folder, "pretrain", "-S", "compute.devices=2")
    wait_for(lambda: [curves for curves in work(folder).glob("*/curves.csv") if curves.stat().st_size], process)
    assert checkpoints(folder) == []
    children = psutil.Process(process.pid).children(recursive=True)
    assert len([child for child in children if "genxfer.launch.worker" in child.cmdline()]) >= 2
    told = time.monotonic()
    while process.poll() is None:  # the same stop again and again, by nobody's will, is one stop
        assert time.monotonic() < told + 10
        process.terminate()
        time.sleep(0.02)
    _, errors = process.communicate()
    assert process.returncode == 143, errors
    assert errors.count("terminated") == 1
    assert "the same command goes on from the last checkpoint" in errors
    assert [child for child in children if child.is_running()] == []
    assert checkpoints(folder)

    again = genxfer(folder, "pretrain")
    assert again.returncode == 0, again.stderr
    assert "going on from the checkpoint" in again.stderr
    resumed, expected = (load_file(files(place)["snapshot.safetensors"]) for place in (folder, whole))
    for name, tensor in expected.items():  # rounding was seen to make 2e-3
        assert tensor.allclose(resumed[name], rtol=1e-2, atol=1e-2), name


def files(folder: Path) -> dict[str, Path]:
    store = LocalStore(folder / ".genxfer" / "store")
    [record] = store.records("pretrain")
    return {name: store.read(ref) for name, ref in record.outputs.items()}
