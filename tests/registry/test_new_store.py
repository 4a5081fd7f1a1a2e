"""A store that is made for the first time: whole, or not at all."""

import signal
import subprocess
import sys
from pathlib import Path

import pytest

from genxfer.registry.connection import connect
from tests.conftest import REPOSITORY, clean_environment
from tests.waiting import until

CONNECT = "from genxfer.registry.connection import connect; connect()"
BEGUN_WITHIN_S = 120


@pytest.mark.slow
def test_a_store_whose_making_was_killed_is_made_anew(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    database = tmp_path / "mlflow.db"
    environment = clean_environment(tmp_path) | {
        "MLFLOW_TRACKING_URI": f"sqlite:///{database}",
        "PYTHONPATH": str(REPOSITORY),
    }
    process = subprocess.Popen([sys.executable, "-c", CONNECT], env=environment)
    half_made = tmp_path / ".genxfer" / "mlflow.db.new" / "mlflow.db"
    until(lambda: half_made.exists() and half_made.stat().st_size, BEGUN_WITHIN_S)
    process.send_signal(signal.SIGKILL)
    process.wait()
    assert not database.exists()

    monkeypatch.setenv("MLFLOW_TRACKING_URI", f"sqlite:///{database}")
    assert [experiment.name for experiment in connect().search_experiments()] == ["Default"]
    assert not half_made.parent.exists()
