"""Small families and short runs, the same for every test of the engine."""

import importlib.util
from collections.abc import Callable
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

from genxfer.models.family import Family
from genxfer.training.config import ComputeConfig
from genxfer.training.distributed import World
from genxfer.training.engine import train
from genxfer.training.pace import TrainResult
from genxfer.training.tracker import NullTracker

OF_TRAIN = (
    "method",
    "init",
    "micro_batch",
    "min_taken_over",
    "tracker",
    "validation",
    "world",
)  # the others are keys of TrainConfig
SCRIPT = Path(__file__).with_name("train_small.py")


@pytest.fixture(scope="session")
def small() -> ModuleType:
    """The script that a test may also start as a process: `small_family`, `small_config`, `packed_images`."""
    spec = importlib.util.spec_from_file_location("train_small", SCRIPT)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture
def train_small(small: ModuleType, tmp_path: Path) -> Callable[..., TrainResult]:
    """Train `family` in `folder` (of its own unless given) with the keys of TrainConfig; one thread, no checkpoints."""

    def run(family: Family, folder: Path = tmp_path, **keys: Any) -> TrainResult:
        folder.mkdir(exist_ok=True)
        own = {"tracker": NullTracker()} | {key: keys.pop(key) for key in OF_TRAIN if key in keys}
        every_s = keys.pop("checkpoint_every_s", 1000.0)
        config = small.small_config(**keys)
        if config.validate_every_kimg:
            own = {"validation": small.small_validation(folder, family, config, World())} | own
        return train(
            family,
            small.packed_images(folder, family),
            config,
            work_dir=folder / "work",
            out_dir=folder / "out",
            compute=ComputeConfig(threads=1, checkpoint_every_s=every_s),
            **own,
        )

    return run
