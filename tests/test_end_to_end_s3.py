"""The whole pipeline with its store on S3: run, found again, and found by another host that has seen nothing yet."""

import json
import re
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from genxfer.stages import STAGES
from tests.conftest import GenxferRun, clean_environment
from tests.seaweed import Seaweed

pytestmark = [pytest.mark.slow, pytest.mark.service, pytest.mark.timeout(900)]


class Host:
    """A working folder, with its own cache, that shares with others a store on S3 and MLflow."""

    def __init__(self, folder: Path, seaweed: Seaweed, genxfer: GenxferRun, mlflow: Path) -> None:
        self.folder = folder
        self._genxfer = genxfer
        self.environment = seaweed.environment | {
            "GENXFER_STORE": "s3://bucket/end-to-end",
            "MLFLOW_TRACKING_URI": f"sqlite:///{mlflow / 'mlflow.db'}",
        }

    def run(self, *arguments: str) -> "subprocess.CompletedProcess[str]":
        done = self._genxfer(self.folder, *arguments, timeout_s=600, **self.environment)
        assert done.returncode == 0, done.stdout + done.stderr
        return done

    def summary(self) -> dict[str, Any]:
        summary: dict[str, Any] = json.loads(self.run("run", "--json").stdout)
        return summary


def states(summary: dict[str, Any], state: str) -> list[str]:
    return [name for name, stage in summary["stages"].items() if stage["state"] == state]


@pytest.fixture(scope="module")
def shared(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("mlflow")


@pytest.fixture(scope="module")
def host(make_clone: Callable[..., Path], seaweed: Seaweed, genxfer: GenxferRun, shared: Path) -> Host:
    return Host(make_clone(), seaweed, genxfer, shared)


@pytest.fixture(scope="module")
def first(host: Host) -> dict[str, Any]:
    return host.summary()


def test_the_first_run_makes_everything_and_leaves_it_on_s3_and_no_unfinished_work(
    host: Host, first: dict[str, Any], seaweed: Seaweed
) -> None:
    assert states(first, "ran") == list(STAGES)
    listed = seaweed.client().list_objects_v2(Bucket="bucket", Prefix="end-to-end/")["Contents"]
    keys = [entry["Key"].removeprefix("end-to-end/") for entry in listed]
    records = [key for key in keys if key.startswith("records/")]
    assert sorted(records) == sorted(
        f"records/{name}/{stage['fingerprint']}.json" for name, stage in first["stages"].items()
    )
    assert all(key in records or re.fullmatch(r"objects/\w\w/\w{62}", key) for key in keys)
    assert not (host.folder / ".genxfer" / "store").exists()
    work = host.folder / ".genxfer" / "work"
    assert {path.relative_to(work).parts[0] for path in work.rglob("*") if path.is_file()} == {"locks"}


def test_the_second_run_finds_every_stage(host: Host, first: dict[str, Any]) -> None:
    second = host.summary()
    assert states(second, "cached") == list(STAGES)
    assert (second["metrics"], second["model"]) == (first["metrics"], first["model"])


def test_another_host_finds_what_is_an_artifact_and_lays_it_out(
    host: Host,
    first: dict[str, Any],
    make_clone: Callable[..., Path],
    seaweed: Seaweed,
    genxfer: GenxferRun,
    shared: Path,
) -> None:
    """The target images laid out in data/ are no artifact: they alone are made anew, to the same bytes."""
    other = Host(make_clone(), seaweed, genxfer, shared)
    summary = other.summary()
    assert states(summary, "ran") == ["dataset_target"]
    assert (summary["metrics"], summary["model"]) == (first["metrics"], first["model"])
    for name in ("pretrain/curves.csv", "evaluate/metrics.json", "evaluate/report.html"):
        assert (other.folder / "artifacts" / name).read_bytes() == (host.folder / "artifacts" / name).read_bytes()
    shutil.rmtree(other.folder / ".genxfer" / "cache")
    assert states(other.summary(), "cached") == list(STAGES)


def test_a_look_at_every_stage_on_s3_imports_nothing_slow(host: Host, first: dict[str, Any]) -> None:
    script = """
import json, sys
from genxfer.config import load_params
from genxfer.stages import STAGES, current_plan
plan = current_plan(load_params())
assert all(plan.standing(name).record for name in STAGES)
print(json.dumps([name for name in ("torch", "mlflow", "dvc", "prefect", "sklearn", "boto3") if name in sys.modules]))
"""
    done = subprocess.run(
        [sys.executable, "-c", script],
        cwd=host.folder,
        env=clean_environment(host.folder) | {"PYTHONPATH": str(host.folder)} | host.environment,
        capture_output=True,
        text=True,
        check=True,
    )
    assert json.loads(done.stdout.splitlines()[-1]) == ["boto3"]


def test_no_credential_reaches_a_log_an_artifact_or_mlflow(host: Host, first: dict[str, Any], shared: Path) -> None:
    from tests.seaweed import SECRET

    done = host.run("run", "-S", "evaluate.n_samples=65")
    assert SECRET not in done.stdout + done.stderr
    for root in (host.folder, shared):
        for path in (path for path in root.rglob("*") if path.is_file()):
            assert SECRET.encode() not in path.read_bytes(), path
