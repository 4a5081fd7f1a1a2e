"""What must stay quick imports nothing slow, and the numerical rooms import with the numerical core alone."""

import json
import subprocess
import sys
import textwrap
from pathlib import Path

import pytest

from tests.conftest import REPOSITORY

SLOW = ("torch", "mlflow", "dvc", "prefect", "sklearn", "matplotlib", "timm", "boto3")


def loaded(script: str) -> set[str]:
    """Return which of the slow packages a script has imported in the end."""
    tail = f"import json, sys; print(json.dumps([n for n in {SLOW} if n in sys.modules]))"
    command = [sys.executable, "-c", f"{textwrap.dedent(script)}\n{tail}"]
    done = subprocess.run(command, cwd=REPOSITORY, capture_output=True, text=True, check=True)
    return set(json.loads(done.stdout.splitlines()[-1]))


def test_help_imports_nothing_slow_and_not_even_pydantic() -> None:
    script = """
        import sys
        from genxfer.cli import _parser
        _parser().format_help()
        assert "pydantic" not in sys.modules
    """
    assert loaded(script) == set()


def test_looking_every_stage_up_imports_nothing_slow() -> None:
    script = """
        from genxfer.config import load_params
        from genxfer.stages import STAGES, current_plan
        plan = current_plan(load_params())
        [plan.standing(name) for name in STAGES]
    """
    assert loaded(script) == set()


def test_looking_up_a_source_model_in_a_folder_imports_nothing_slow(tmp_path: Path) -> None:
    (tmp_path / "snapshot.safetensors").write_bytes(b"")
    (tmp_path / "snapshot.json").write_text('{"family": "dcgan"}')
    script = f"""
        from genxfer.config import load_params
        from genxfer.stages import current_plan
        plan = current_plan(load_params(overrides=["finetune.init_from={tmp_path}"]))
        assert "pretrain/snapshot.safetensors" in plan.document(plan.stages["finetune"], {{}})["inputs"]
    """
    assert loaded(script) == set()


@pytest.mark.parametrize("room", ["data", "models", "transfer", "training", "metrics", "report"])
def test_the_numerical_rooms_import_without_prefect_mlflow_and_dvc(room: str) -> None:
    script = f"""
        import importlib, pkgutil, sys
        for name in ("prefect", "mlflow", "dvc", "boto3", "sklearn", "mlxtend"):
            sys.modules[name] = None
        package = importlib.import_module("genxfer.{room}")
        for module in pkgutil.iter_modules(package.__path__):
            importlib.import_module(f"genxfer.{room}.{{module.name}}")
        for name in ("prefect", "mlflow", "dvc", "sklearn"):
            del sys.modules[name]
    """
    assert not loaded(script) & {"prefect", "mlflow", "dvc", "sklearn"}
