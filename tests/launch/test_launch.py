"""Ranks started by torchrun under the supervisor: they do their part, they come back, and none is left behind."""

import logging
import os
import pty
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
import torch

from genxfer.errors import DataError, GenxferError, StoreError, TrainingError
from genxfer.launch.launcher import carry_out, launch
from genxfer.training.checkpoint import checkpoint_files, read_newest
from genxfer.training.engine import LAST_GOOD_FOLDER
from genxfer.training.snapshot import family_of, load_snapshot
from genxfer.training.tracker import NullTracker
from tests.conftest import REPOSITORY
from tests.launch.features_small import small_feature_job
from tests.launch.launch_small import small_job
from tests.pseudo_terminal import take_terminal
from tests.waiting import until

pytestmark = pytest.mark.slow

LONG_KIMG, LONG_N = "400", "100000"  # more than any of these tests waits for


class Recorder(NullTracker):
    def __init__(self) -> None:
        self.logged: list[int] = []
        self.pictures: list[np.ndarray] = []
        self.closed = False

    def log(self, values: object, images_seen: int) -> None:
        self.logged.append(images_seen)

    def picture(self, name: str, images: np.ndarray, images_seen: int) -> None:
        self.pictures.append(images)

    def close(self) -> None:
        self.closed = True


def processes_of(folder: Path) -> dict[int, list[str]]:
    """The command lines, by process, of all that works on the job in `folder`."""
    found = {}
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit():
            try:
                words = (entry / "cmdline").read_bytes().decode().split("\0")
            except OSError:
                continue
            if str(folder / "work/job.json") in words:
                found[int(entry.name)] = words
    return found


def ranks_of(folder: Path) -> list[int]:
    return [pid for pid, words in processes_of(folder).items() if words[2] == "genxfer.launch.worker" or "-u" in words]


def begun(folder: Path, terminal: int | None = None, kind: str = "training") -> "subprocess.Popen[bytes]":
    """Start the process that launches two ranks, and wait until they have written something: curves, or features."""
    script, *arguments = {
        "training": ("launch_small.py", "vae", LONG_KIMG),
        "evaluation": ("features_small.py", LONG_N),
    }[kind]
    process = subprocess.Popen(
        [sys.executable, str(Path(__file__).with_name(script)), *arguments, str(folder)],
        cwd=REPOSITORY,
        env=os.environ | {"PYTHONPATH": str(REPOSITORY)},
        start_new_session=True,
        stdin=terminal,
        stdout=terminal,
        stderr=terminal,
        preexec_fn=take_terminal if terminal is not None else None,
    )
    curves = folder / "work/curves.csv"
    until(lambda: (curves.exists() and curves.stat().st_size) or [*folder.glob("work/features/model_*")], 90)
    return process


def test_two_ranks_tell_what_one_process_would(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    tracker = Recorder()
    (tmp_path / "temporary").mkdir()
    monkeypatch.setenv("TMPDIR", str(tmp_path / "temporary"))
    facts = launch(small_job("dcgan", tmp_path, kimg=0.04), 2, tracker)
    assert facts is not None
    assert (facts["processes"], facts["images_seen"], facts["resumed_from"]) == (2, 40, None)
    assert tracker.logged == [12, 20, 32, 40]
    assert [images.shape for images in tracker.pictures] == [(32, 3, 16, 16)]
    assert tracker.closed
    assert (tmp_path / "out/snapshot.safetensors").exists()
    assert processes_of(tmp_path) == {}
    assert [*(tmp_path / "temporary").glob("torchelastic_*"), *(tmp_path / "work").glob("ranks-*")] == []


def test_an_error_of_the_ranks_is_raised_as_it_is_and_nothing_is_tried_again(tmp_path: Path) -> None:
    job = small_job("vae", tmp_path)
    (tmp_path / "train.npy").write_bytes(b"no images")
    with pytest.raises(DataError, match="cannot be read as packed images"):
        launch(job, 2, NullTracker())
    assert processes_of(tmp_path) == {}


def test_ranks_that_diverge_keep_the_last_good_weights_and_say_where(tmp_path: Path) -> None:
    job = small_job("vae", tmp_path, lr=1.0, warmup_kimg=0.0, kimg=4.0, report_every_kimg=0.02)
    with pytest.raises(TrainingError, match="the last good ones, are kept in") as told:
        launch(job, 2, NullTracker())
    folder = tmp_path / "work" / LAST_GOOD_FOLDER
    assert str(folder) in str(told.value)
    kept = load_snapshot(folder / "snapshot.safetensors", folder / "snapshot.json")
    assert kept.images_seen > 0
    family_of(kept)  # every net of it
    assert processes_of(tmp_path) == {}


def test_a_killed_rank_comes_back_and_the_end_is_the_same(tmp_path: Path) -> None:
    launch(small_job("vae", tmp_path / "whole", kimg=0.6), 2, NullTracker())

    class KillOneRank(NullTracker):
        killed = False

        def log(self, values: object, images_seen: int) -> None:
            if images_seen >= 200 and not self.killed:
                self.killed = True
                os.kill(ranks_of(tmp_path / "killed")[-1], signal.SIGKILL)

    tracker = KillOneRank()
    facts = launch(small_job("vae", tmp_path / "killed", kimg=0.6), 2, tracker)
    assert tracker.killed
    assert facts is not None
    assert facts["resumed_from"] is not None
    for file in ("snapshot.safetensors", "curves.csv"):
        assert (tmp_path / "killed/out" / file).read_bytes() == (tmp_path / "whole/out" / file).read_bytes()


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT, signal.SIGKILL])
def test_no_rank_outlives_the_process_that_launched_it(number: signal.Signals, tmp_path: Path) -> None:
    process = begun(tmp_path)
    assert len(ranks_of(tmp_path)) == 2
    assert checkpoint_files(tmp_path / "work") == []
    process.send_signal(number)
    started_s = time.monotonic()
    until(lambda: not processes_of(tmp_path), 20)
    process.wait(20)
    if number != signal.SIGKILL:
        assert time.monotonic() - started_s < 10
    assert read_newest(tmp_path / "work") is not None


def test_no_rank_that_takes_features_outlives_the_process_that_launched_it(tmp_path: Path) -> None:
    process = begun(tmp_path, kind="evaluation")
    assert len(ranks_of(tmp_path)) == 2
    process.kill()
    until(lambda: not processes_of(tmp_path), 20)
    process.wait(20)


def test_two_ranks_take_the_features_of_one_process(tmp_path: Path) -> None:
    together, alone = (small_feature_job(tmp_path / folder) for folder in ("together", "alone"))
    assert carry_out(together, 2, NullTracker()) == {"images": 190, "processes": 2}
    carry_out(alone, 1, NullTracker())
    for name in alone.sets:
        assert torch.equal(together.features(name), alone.features(name))
    assert processes_of(tmp_path / "together") == {}


def test_what_is_printed_in_another_encoding_is_passed_on_and_so_is_the_rest(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    (tmp_path / "sitecustomize.py").write_text(
        r"import os, sys; 'genxfer.launch.worker' in sys.orig_argv and os.write(2, b'caf\xe9\nand the rest\n')"
    )
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join([str(tmp_path), str(REPOSITORY)]))
    caplog.set_level(logging.DEBUG, "genxfer.launch")
    assert launch(small_feature_job(tmp_path), 2, NullTracker()) is not None
    lines = [record.getMessage() for record in caplog.records]
    assert lines.count("caf\N{REPLACEMENT CHARACTER}") == lines.count("and the rest") == 2


def test_an_error_of_ranks_that_take_features_is_raised_as_it_is(tmp_path: Path) -> None:
    job = small_feature_job(tmp_path)
    (tmp_path / "work/features").write_text("in the way")
    with pytest.raises(StoreError, match="cannot be written"):
        launch(job, 2, NullTracker())
    assert processes_of(tmp_path) == {}


class KillARank(NullTracker):
    """Kills one of the ranks of the job in `folder` when they start, so many times."""

    def __init__(self, folder: Path, times: int) -> None:
        self.folder, self.times = folder, times

    def start(self, total_images: int, images_seen: int) -> None:
        if self.times:
            self.times -= 1
            os.kill(ranks_of(self.folder)[-1], signal.SIGKILL)


def test_a_killed_rank_that_takes_features_comes_back(tmp_path: Path) -> None:
    killed, whole = small_feature_job(tmp_path / "killed", 300), small_feature_job(tmp_path / "whole", 300)
    tracker = KillARank(tmp_path / "killed", 1)
    launch(killed, 2, tracker)
    carry_out(whole, 1, NullTracker())
    assert tracker.times == 0
    assert torch.equal(killed.features("model_1"), whole.features("model_1"))


def test_ranks_that_die_again_and_again_are_given_up_and_their_job_says_so(tmp_path: Path) -> None:
    with pytest.raises(
        GenxferError, match=r"The evaluation in 2 processes ended with code .*start again at most 3"
    ) as told:
        launch(small_feature_job(tmp_path, int(LONG_N)), 2, KillARank(tmp_path, 4))
    assert not isinstance(told.value, TrainingError)
    assert processes_of(tmp_path) == {}


def test_no_rank_outlives_its_terminal(tmp_path: Path) -> None:
    ours, theirs = pty.openpty()
    process = begun(tmp_path, terminal=theirs)
    os.close(theirs)
    os.close(ours)
    until(lambda: not processes_of(tmp_path), 20)
    process.wait(20)


def test_no_rank_outlives_the_supervisor_or_the_agent(tmp_path: Path) -> None:
    for module in ("genxfer.launch.supervisor", "genxfer.launch.agent"):
        folder = tmp_path / module
        process = begun(folder)
        victim = next(pid for pid, words in processes_of(folder).items() if words[2] == module)
        os.kill(victim, signal.SIGKILL)
        until(lambda folder=folder: not processes_of(folder), 20)
        process.wait(20)
