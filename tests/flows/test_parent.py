"""What a flow uses stays there from the moment that it was found, and not only when all went well in the end."""

import sqlite3
import subprocess
import sys
from contextlib import closing
from pathlib import Path

import pytest

from flows.parent import parent_run
from genxfer.artifacts.store import LocalStore
from genxfer.config import load_params
from genxfer.registry.connection import connect
from genxfer.stages import local_context, referrers, run_stage
from genxfer.stages.garbage import collect_garbage
from tests.artifacts.test_garbage import age, kept_records
from tests.flows.conftest import Server


def let_runs_be_old(database: Path) -> None:
    with closing(sqlite3.connect(database)) as connection, connection:
        connection.execute("UPDATE runs SET start_time = 0")


def test_the_report_of_a_run_is_its_own_whatever_lies_where_it_was_laid_out(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("MLFLOW_TRACKING_URI", f"sqlite:///{tmp_path / 'mlflow.db'}")
    (tmp_path / "fetched").mkdir()
    (tmp_path / "stored").write_text("of A")
    (tmp_path / "report.html").write_text("of B")
    with parent_run("transfer") as parent:
        parent.summary = {"metrics": {}, "report": str(tmp_path / "report.html")}
        parent.report = tmp_path / "stored"
    attached = connect().download_artifacts(parent.run_id, "report.html", str(tmp_path / "fetched"))
    assert Path(attached).read_text() == "of A"


TRANSFER = """
from dataclasses import replace
import flows.transfer as flow
laid_out = flow.local_context
flow.local_context = lambda run: replace(laid_out(run), export_root=None)
from genxfer.config import load_params
flow.transfer(load_params())
"""


@pytest.mark.slow
@pytest.mark.service
def test_the_end_of_a_run_needs_nothing_of_what_was_laid_out(server: Server, workspace: Path, tmp_path: Path) -> None:
    """Another run in the same folder may lay out its own results, and remove these, at any moment."""
    uri = f"sqlite:///{tmp_path / 'mlflow.db'}"
    environment = server.environment | {"MLFLOW_TRACKING_URI": uri, "MLFLOW_DISABLE_TELEMETRY": "true"}
    command = [sys.executable, "-c", TRANSFER]
    done = subprocess.run(command, cwd=workspace, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert not (workspace / "artifacts").exists()
    assert "MLflow did not take" not in done.stderr
    (artifact,) = server.ask("/artifacts/filter", {"artifacts": {"key": {"any_": ["samples"]}}})
    assert [line for line in artifact["data"].splitlines() if line.startswith("### ")] == [
        "### target",
        "### transferred",
        "### from scratch",
        "### source only",
    ]


@pytest.mark.slow
def test_what_a_flow_found_stays_while_it_is_between_two_stages(
    workspace: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """gc runs in another folder, which asks for nothing and has nothing laid out, with the same store and MLflow."""
    monkeypatch.setattr(referrers, "planned", lambda params: {})
    monkeypatch.setenv("GENXFER_STORE", str(tmp_path / "store"))
    monkeypatch.setenv("MLFLOW_TRACKING_URI", f"sqlite:///{tmp_path / 'mlflow.db'}")
    store = LocalStore(tmp_path / "store")
    params = load_params(workspace / "params.yaml")
    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir()

    def gc() -> None:
        with monkeypatch.context() as patch:
            patch.chdir(elsewhere)
            collect_garbage(params, 30.0, apply=True)

    monkeypatch.chdir(workspace)
    for name in ("dataset_source", "dataset_target"):
        run_stage(name, params, local_context())
    age(store, 40)
    with parent_run("transfer") as parent:
        found = run_stage("dataset_target", params, local_context(parent.run_id))
        assert found.state == "cached"
        let_runs_be_old(tmp_path / "mlflow.db")
        gc()
        assert kept_records(store) == {("dataset_target", found.fingerprint)}
    let_runs_be_old(tmp_path / "mlflow.db")
    gc()
    assert kept_records(store) == set()  # the flow has ended, long ago
