"""What people and files are told of a run."""

import logging
import sys
import threading
from pathlib import Path

import pytest

from genxfer.training.tracker import ConsoleTracker, CurveFile, NullTracker, Trackers
from tests.waiting import until


def curves(path: Path, *rows: tuple[int, dict[str, float]], images_seen: int = 0) -> str:
    file = CurveFile(path)
    file.start(100, images_seen)
    for seen, values in rows:
        file.log(values, seen)
    return path.read_text()


def test_curves_have_a_column_for_each_term(tmp_path: Path) -> None:
    text = curves(tmp_path / "c.csv", (10, {"kl": 0.5, "mse": 1.0}), (20, {"kl": 0.25, "mse": 0.125}))
    assert text == "images_seen,kl,mse\n10,0.5,1.0\n20,0.25,0.125\n"


def test_a_term_that_comes_late_or_pauses_leaves_empty_cells(tmp_path: Path) -> None:
    rows = (10, {"kl": 0.5}), (20, {"kl": 0.25, "r1": 2.0}), (30, {"kl": 0.125})
    assert curves(tmp_path / "c.csv", *rows) == "images_seen,kl,r1\n10,0.5,\n20,0.25,2.0\n30,0.125,\n"


def test_a_resumed_run_cuts_off_what_it_will_write_again(tmp_path: Path) -> None:
    path = tmp_path / "c.csv"
    curves(path, (10, {"kl": 0.5}), (20, {"kl": 0.25}), (30, {"kl": 0.1}))
    with path.open("a") as file:
        file.write("4")  # torn by a kill: not row 4
    assert curves(path, (30, {"kl": 0.3}), images_seen=20) == "images_seen,kl\n10,0.5\n20,0.25\n30,0.3\n"
    assert curves(path, (10, {"kl": 9.0})) == "images_seen,kl\n10,9.0\n"


def test_every_tracker_is_told(tmp_path: Path) -> None:
    trackers = Trackers([CurveFile(tmp_path / "a.csv"), NullTracker(), CurveFile(tmp_path / "b.csv")])
    trackers.start(100, 0)
    trackers.log({"kl": 1.0}, 10)
    trackers.progress(10, 5.0)
    trackers.close()
    assert (tmp_path / "a.csv").read_text() == (tmp_path / "b.csv").read_text() == "images_seen,kl\n10,1.0\n"


def test_without_a_terminal_the_console_gets_lines(
    caplog: pytest.LogCaptureFixture, capsys: pytest.CaptureFixture[str]
) -> None:
    tracker = ConsoleTracker("finetune")
    with caplog.at_level(logging.INFO, "genxfer.training"):
        tracker.start(2000, 0)
        tracker.log({"kl": 0.5}, 1000)
        tracker.progress(1000, 500.0)  # too early for a line
        tracker.progress(2000, 500.0)
        tracker.close()
    assert [record.getMessage() for record in caplog.records] == [
        "finetune: 2.0 of 2.0 kimg, 500 images/s, 0 s to go  kl 0.5"
    ]
    assert capsys.readouterr().out == ""


def test_a_terminal_gets_a_bar_on_standard_error(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(sys.stderr, "isatty", lambda: True)
    monkeypatch.setenv("COLUMNS", "120")
    tracker = ConsoleTracker("finetune")
    tracker.start(2000, 500)
    tracker.log({"kl": 0.5}, 1000)
    tracker.progress(1000, 1234.0)
    tracker.close()
    shown = capsys.readouterr()
    assert shown.out == ""
    for part in ("finetune", "50%", "1,234 images/s", "kl 0.5"):
        assert part in shown.err


def test_training_that_starts_again_leaves_one_bar_and_at_its_end_none(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(sys.stderr, "isatty", lambda: True)
    monkeypatch.setenv("TERM", "xterm")
    stream, others = sys.stderr, threading.enumerate()

    def painters() -> int:
        return len([thread for thread in threading.enumerate() if thread not in others])

    tracker = ConsoleTracker("finetune")
    tracker.start(2000, 1000)
    assert painters() == 1
    assert sys.stderr is not stream
    tracker.start(2000, 500)
    until(lambda: painters() == 1, 10)  # a thread ends a moment after it was told to
    tracker.progress(600, 1234.0)
    tracker.close()
    until(lambda: painters() == 0, 10)
    assert sys.stderr is stream
    assert "30%" in capsys.readouterr().err
