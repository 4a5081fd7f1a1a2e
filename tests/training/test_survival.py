"""Processes that are killed, interrupted and terminated for real."""

import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from types import ModuleType

import pytest

from genxfer.training import interrupt
from genxfer.training.checkpoint import checkpoint_files, read_newest
from genxfer.training.interrupt import Interrupted, Interrupts, stopping
from genxfer.training.tracker import NullTracker

REPOSITORY = Path(__file__).parents[2]
PATIENCE_S = 120.0


class Child:
    """A training process that can be waited for and always ends with its test."""

    def __init__(self, *arguments: object) -> None:
        command = [sys.executable, str(Path(__file__).with_name("train_small.py")), *map(str, arguments)]
        environment = os.environ | {"PYTHONPATH": str(REPOSITORY), "OMP_NUM_THREADS": "1"}
        self.process = subprocess.Popen(command, env=environment, stderr=subprocess.PIPE, text=True)

    def wait_for(self, happened: Callable[[], object]) -> None:
        deadline_s = time.monotonic() + PATIENCE_S
        while not happened():
            assert self.process.poll() is None, self.process.communicate()[1]
            assert time.monotonic() < deadline_s
            time.sleep(0.002)

    def end(self, number: int) -> str:
        self.process.send_signal(number)
        return self.process.communicate(timeout=PATIENCE_S)[1]


@pytest.fixture
def start_child() -> Iterator[Callable[..., Child]]:
    children: list[Child] = []

    def start(*arguments: object) -> Child:
        children.append(Child(*arguments))
        return children[-1]

    yield start
    for child in children:
        child.process.kill()
        child.process.wait()


@pytest.mark.slow
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP])
def test_a_signal_ends_the_step_and_leaves_a_checkpoint(
    number: int, start_child: Callable[..., Child], tmp_path: Path
) -> None:
    child = start_child("mlp_vae", 1000, 1000, tmp_path)  # long, and no checkpoint of its own accord
    curves, work = tmp_path / "work/curves.csv", tmp_path / "work"
    child.wait_for(lambda: curves.exists() and curves.stat().st_size)
    errors = child.end(number)
    assert child.process.returncode != 0
    last_words = "KeyboardInterrupt" if number == signal.SIGINT else f"stopped by {signal.Signals(number).name}"
    assert errors.strip().endswith(last_words)
    (path,) = checkpoint_files(work)
    checkpoint = read_newest(work)
    assert checkpoint is not None
    assert checkpoint.images_seen >= 8
    assert checkpoint.images_seen % 4 == 0
    assert {file.name for file in work.iterdir()} == {path.name, "curves.csv", "frames"}
    assert not (tmp_path / "out").exists()


def test_a_signal_is_handed_on_to_the_handler_that_was_there_before() -> None:
    received: list[int] = []
    former = signal.signal(signal.SIGTERM, lambda number, frame: received.append(number))
    interrupts = Interrupts()
    try:
        interrupts.__enter__()
        signal.raise_signal(signal.SIGTERM)
        assert (interrupts.received, received) == (signal.SIGTERM, [])
        with pytest.raises(Interrupted, match="SIGTERM"):
            interrupts.__exit__(None, None, None)
        assert received == [signal.SIGTERM]
        signal.raise_signal(signal.SIGTERM)
        assert len(received) == 2
    finally:
        signal.signal(signal.SIGTERM, former)


def test_what_a_closed_terminal_and_a_logout_send_besides_does_not_cut_a_stop_short() -> None:
    with Interrupts() as interrupts:
        for number in (signal.SIGHUP, signal.SIGHUP, signal.SIGTERM, signal.SIGINT):  # the last one at once: no person
            signal.raise_signal(number)
        assert interrupts.received == signal.SIGHUP
        interrupts.received = None  # answered
    with stopping():
        for number in (signal.SIGHUP, signal.SIGTERM, signal.SIGINT):
            signal.raise_signal(number)


@pytest.mark.parametrize("first", [signal.SIGINT, signal.SIGTERM])
def test_a_second_ctrl_c_does_not_wait(first: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(interrupt, "IMPATIENT_AFTER_S", 0.0)
    with Interrupts() as interrupts:
        signal.raise_signal(first)
        with pytest.raises(Interrupted, match="SIGINT"):
            signal.raise_signal(signal.SIGINT)
        interrupts.received = None  # answered
    with stopping(), pytest.raises(Interrupted, match="SIGINT"):
        signal.raise_signal(signal.SIGINT)


def test_an_ignored_signal_stays_ignored() -> None:
    former = signal.signal(signal.SIGTERM, signal.SIG_IGN)
    try:
        with Interrupts() as interrupts:
            signal.raise_signal(signal.SIGTERM)
        assert interrupts.received is None
    finally:
        signal.signal(signal.SIGTERM, former)


def test_training_in_another_thread_leaves_the_signal_handlers_alone(small: ModuleType, train_small: Callable) -> None:
    handlers: list[object] = []

    class Watcher(NullTracker):
        def log(self, values: object, images_seen: int) -> None:
            handlers.append(signal.getsignal(signal.SIGTERM))

    thread = threading.Thread(target=train_small, args=(small.small_family("mlp_gan"),), kwargs={"tracker": Watcher()})
    thread.start()
    thread.join()
    assert handlers
    assert set(handlers) == {signal.getsignal(signal.SIGTERM)}
