"""infra/kubernetes as kubectl renders it."""

import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import yaml

from tests.conftest import REPOSITORY

KUBERNETES = REPOSITORY / "infra" / "kubernetes"
KUBECTL = Path(sys.executable).with_name("kubectl")

Object = dict[str, Any]
Rendered = Callable[[str], list[Object]]


@pytest.fixture(scope="session")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A copy with secrets, as the operator makes them."""
    copy = tmp_path_factory.mktemp("kubernetes") / "kubernetes"
    shutil.copytree(KUBERNETES, copy)
    shutil.copy(copy / "base" / "secrets.env.example", copy / "base" / "secrets.env")
    return copy


def kustomize(folder: Path) -> "subprocess.CompletedProcess[str]":
    program = str(KUBECTL) if KUBECTL.exists() else "kubectl"
    return subprocess.run([program, "kustomize", str(folder)], capture_output=True, text=True)


@pytest.fixture(scope="session")
def rendered(folder: Path) -> Rendered:
    """A function that renders an overlay."""
    known: dict[str, list[Object]] = {}

    def render(overlay: str) -> list[Object]:
        if overlay not in known:
            done = kustomize(folder / "overlays" / overlay)
            assert done.returncode == 0, done.stderr
            assert not done.stderr  # no warning of what is out of date
            known[overlay] = list(yaml.safe_load_all(done.stdout))
        return known[overlay]

    return render


def one(objects: list[Object], kind: str, name: str) -> Object:
    [found] = [found for found in objects if (found["kind"], found["metadata"]["name"]) == (kind, name)]
    return found


def mounted(container: Object, volume: Path) -> dict[str, Path]:
    """Return the folders of the claim by where they are mounted."""
    mounts = [mount for mount in container["volumeMounts"] if mount["name"] == "genxfer"]
    for mount in mounts:
        (volume / mount["subPath"]).mkdir(parents=True, exist_ok=True)
    return {mount["mountPath"]: volume / mount["subPath"] for mount in mounts}
