"""A small source model and a short adaptation of it, for every test of a method."""

from collections.abc import Callable
from pathlib import Path

import pytest

from genxfer.training.config import ComputeConfig
from genxfer.training.engine import train
from genxfer.training.snapshot import Snapshot, load_snapshot
from genxfer.training.tracker import NullTracker
from genxfer.transfer.config import CDC, EWC, L2SP, MethodConfig
from tests.training.train_small import packed_images, small_config, small_family


def adapted(strength: float) -> list[MethodConfig]:
    """Return every method that weighs how far a model has left its source, at this weight."""
    return [config(strength=strength) for config in (L2SP, EWC, CDC)]  # type: ignore[call-arg]


@pytest.fixture
def train_from_source(tmp_path: Path) -> Callable[..., Path]:
    """Train a source model, then adapt it by `method`; return the folder of both runs, `source` and `target`.

    Other `keys` of the family than the source's are those of the adapted model.
    """

    def run(name: str, method: MethodConfig | None, **keys: object) -> Path:
        folder = tmp_path / f"{name}-{method and method.method}-{getattr(method, 'strength', None)}"
        _train(name, folder / "source", None, None)
        out = folder / "source/out"
        init = load_snapshot(out / "snapshot.safetensors", out / "snapshot.json")
        _train(name, folder / "target", method, init, **keys)
        return folder

    return run


def _train(name: str, folder: Path, method: MethodConfig | None, init: Snapshot | None, **keys: object) -> None:
    family = small_family(name, **keys)
    folder.mkdir(parents=True)
    train(
        family,
        packed_images(folder, family),
        small_config(kimg=0.008 if init is None else 0.04),
        work_dir=folder / "work",
        out_dir=folder / "out",
        tracker=NullTracker(),
        method=method,
        init=init,
        compute=ComputeConfig(threads=1, checkpoint_every_s=1000.0),
    )
