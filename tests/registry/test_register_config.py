import subprocess
import sys
from pathlib import Path

import pytest
from pydantic import ValidationError

from genxfer.registry.config import RegisterConfig, shown_uri, sqlite_file, tracking_uri, without_passwords


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
    assert sqlite_file("sqlite:///runs.db?timeout=60") == tmp_path / "runs.db"  # the rest is SQLAlchemy's
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "http://127.0.0.1:5000")
    assert tracking_uri() == "http://127.0.0.1:5000"
    assert sqlite_file(tracking_uri()) is None


@pytest.mark.parametrize(
    ("uri", "shown"),
    [
        ("http://127.0.0.1:5000", "http://127.0.0.1:5000"),
        ("https://ann:secret@host/mlflow", "https://host/mlflow"),
        ("http://ann:sec@ret/sec:80/ret@host:80", "http://host:80"),
        ("http://ann:sec?ret@host", "http://..."),
        ("postgresql+psycopg2://ann:secret@host/db", "postgresql+psycopg2://host/db"),
        ("postgresql://host/db?user=ann&password=secret", "postgresql://host/db"),
        ("postgresql://host/db?user=ann&password=sec@ret", "postgresql://..."),
        ("sqlite:////home/ann@work/mlflow.db", "sqlite:////home/ann@work/mlflow.db"),
        ("databricks", "databricks"),
    ],
)
def test_an_address_is_shown_without_its_password(monkeypatch: pytest.MonkeyPatch, uri: str, shown: str) -> None:
    monkeypatch.setenv("MLFLOW_TRACKING_URI", uri)
    assert shown_uri() == shown
    text = without_passwords(f"request to {uri}/api failed, and one to http://ann:secret@elsewhere/a@b")
    assert text == f"request to {shown}/api failed, and one to http://elsewhere/a@b"
