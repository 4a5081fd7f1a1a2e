"""The target folder that shows a package's images, and what a user may have left in it."""

from pathlib import Path

import pytest

from genxfer.artifacts.store import LocalStore
from genxfer.config import load_params
from genxfer.errors import DataError
from genxfer.pipeline import Context, Plan, run_stage
from genxfer.stages.table import STAGES
from tests.conftest import REPOSITORY


@pytest.mark.parametrize("name", ["digits_0042.png", ".of-the-users-own"])
def test_a_link_whose_file_is_gone_is_named_and_no_traceback(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    target = "dataset.target={kind: digits, n_train: 20}"
    params = load_params(REPOSITORY / "params.yaml", ["dataset.resolution_px=16", target])
    context = Context(LocalStore(tmp_path / "store"))
    assert run_stage(STAGES, "dataset_target", params, context).state == "ran"
    assert run_stage(STAGES, "dataset_target", params, context).state == "cached"

    link = tmp_path / "data" / "target" / name
    link.unlink(missing_ok=True)
    link.symlink_to("nowhere.png")
    assert name in str(Plan(STAGES, params, context.store).standing("dataset_target").stale)
    with pytest.raises(DataError, match=name):
        run_stage(STAGES, "dataset_target", params, context)

    link.unlink()
    run_stage(STAGES, "dataset_target", params, context)
    assert run_stage(STAGES, "dataset_target", params, context).state == "cached"
