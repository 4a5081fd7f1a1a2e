import subprocess
import sys
from pathlib import Path

import pytest
from pydantic import ValidationError

from genxfer.registry.config import RegisterConfig, sqlite_file, tracking_uri


def test_the_config_and_a_cached_lookup_import_neither_mlflow_nor_torch(tmp_path: Path) -> None:
    script = (
        "import sys\n"
        "import genxfer.registry.config\n"
        "from genxfer.registry import models, runs, tracking\n"
        "assert models.find_version('genxfer', 'f') is None\n"
        "print([name for name in ('mlflow', 'torch', 'PIL') if name in sys.modules])\n"
    )
    root = Path(__file__).parents[2]
    done = subprocess.run(
        [sys.executable, "-c", script],
        cwd=tmp_path,
        env={"PYTHONPATH": str(root)},
        capture_output=True,
        text=True,
        check=True,
    )
    assert done.stdout.strip() == "[]"
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("name", ["", "a/b", "a:b", "it's", "two words"])
def test_a_name_that_mlflow_cannot_take_is_refused_early(name: str) -> None:
    with pytest.raises(ValidationError):
        RegisterConfig(name=name)


@pytest.mark.parametrize("alias", ["", "latest", "v2", "two words"])
def test_an_alias_that_mlflow_cannot_take_is_refused_early(alias: str) -> None:
    with pytest.raises(ValidationError):
        RegisterConfig(alias=alias)


def test_the_store_is_a_file_in_the_working_folder_unless_told_otherwise(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    assert sqlite_file(tracking_uri()) == tmp_path / "mlflow.db"
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "http://127.0.0.1:5000")
    assert tracking_uri() == "http://127.0.0.1:5000"
    assert sqlite_file(tracking_uri()) is None
