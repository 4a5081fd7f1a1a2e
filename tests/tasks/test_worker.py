"""A flow run that a worker started is terminated when the worker is gone; one that people started is not."""

import os
import signal
import subprocess
import sys
import textwrap
import time
from pathlib import Path

import pytest

from tests.conftest import REPOSITORY

# A parent that starts the flow's process, in a thread that ends at once, and waits to be killed.
PARENT = """
    import subprocess, sys, threading, time
    threading.Thread(target=lambda: subprocess.Popen([sys.executable, "-c", sys.argv[1], sys.argv[2]])).start()
    time.sleep(60)
"""
FLOW = """
    import pathlib, signal, sys, time
    from tasks.worker import follow_worker
    file = pathlib.Path(sys.argv[1])
    signal.signal(signal.SIGTERM, lambda number, frame: sys.exit(file.write_text("terminated")))
    follow_worker()
    file.write_text("follows")
    time.sleep(3)
    file.write_text("went on")
"""


def text_of(file: Path, wanted: str) -> bool:
    deadline = time.monotonic() + 30
    while time.monotonic() < deadline:
        if file.exists() and file.read_text() == wanted:
            return True
        time.sleep(0.05)
    return False


@pytest.mark.slow
@pytest.mark.parametrize(("variable", "end"), [("PREFECT__FLOW_RUN_ID", "terminated"), ("OTHER", "went on")])
def test_a_flow_run_ends_with_its_worker(variable: str, end: str, tmp_path: Path) -> None:
    parent, flow = (textwrap.dedent(text) for text in (PARENT, FLOW))
    environment = {name: value for name, value in os.environ.items() if not name.startswith("PREFECT")}
    file = tmp_path / "state"
    process = subprocess.Popen(
        [sys.executable, "-c", parent, flow, str(file)],
        env=environment | {variable: "a run", "PYTHONPATH": str(REPOSITORY)},
    )
    assert text_of(file, "follows")
    process.send_signal(signal.SIGKILL)
    process.wait()
    assert text_of(file, end)
