"""What a flow uses stays there from the moment that it was found, and not only when all went well in the end."""

import sqlite3
from contextlib import closing
from pathlib import Path

import pytest

from flows.parent import parent_run
from genxfer.artifacts.store import LocalStore
from genxfer.config import load_params
from genxfer.stages import local_context, referrers, run_stage
from genxfer.stages.garbage import collect_garbage
from tests.artifacts.test_garbage import age, kept_records


def let_runs_be_old(database: Path) -> None:
    with closing(sqlite3.connect(database)) as connection, connection:
        connection.execute("UPDATE runs SET start_time = 0")


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
