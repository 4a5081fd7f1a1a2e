"""Train a small model in a process of its own, to be killed: train_small.py FAMILY KIMG CHECKPOINT_EVERY_S FOLDER."""

import signal
import sys
from pathlib import Path

import numpy as np

from genxfer.data.dataset import PackedImages
from genxfer.metrics.features import Pixels
from genxfer.models.config import family_config
from genxfer.models.family import Family, ImageShape, build_family
from genxfer.training.config import ComputeConfig, TrainConfig
from genxfer.training.distributed import World
from genxfer.training.engine import train
from genxfer.training.tracker import NullTracker
from genxfer.training.validation import Validation


def small_family(name: str, seed: int = 0, **keys: object) -> Family:
    shape = ImageShape(1, 28) if name.startswith("mlp") else ImageShape(3, 16)
    keys = ({"sample_steps": 2} if name == "flow" else {"latent_dim": 4}) | keys
    return build_family(family_config({"family": name, "width": 8, **keys}), shape, seed)


def packed_images(folder: Path, family: Family, n: int = 50) -> PackedImages:
    path = folder / "train.npy"
    if not path.exists():
        size = (n, family.shape.channels, family.shape.resolution_px, family.shape.resolution_px)
        np.save(path, np.random.default_rng(0).integers(0, 256, size, dtype=np.uint8))
    return PackedImages(path)


def validation_images(folder: Path, family: Family, n: int = 6) -> PackedImages:
    """Plain gray ones: what a fresh net draws, and a trained one less and less."""
    path = folder / "validation.npy"
    if not path.exists():
        size = (n, family.shape.channels, family.shape.resolution_px, family.shape.resolution_px)
        np.save(path, np.full(size, 128, dtype=np.uint8))
    return PackedImages(path)


def small_validation(folder: Path, family: Family, config: TrainConfig, world: World) -> Validation:
    return Validation(validation_images(folder, family), config, "fp32", world, Pixels())


def small_config(**keys: object) -> TrainConfig:
    numbers = {"kimg": 0.04, "batch": 4, "lr": 1e-3, "ema_kimg": 0.01, "report_every_kimg": 0.01, "warmup_kimg": 0.008}
    return TrainConfig.model_validate(
        numbers | {"augment": ("color", "translation"), "mirror": True, "validation_samples": 4} | keys
    )


if __name__ == "__main__":
    signal.signal(signal.SIGINT, signal.default_int_handler)  # a shell's background job starts with it ignored
    name, kimg, checkpoint_every_s, place = sys.argv[1:]
    folder, family = Path(place), small_family(name)
    train(
        family,
        packed_images(folder, family),
        small_config(kimg=float(kimg)),
        work_dir=folder / "work",
        out_dir=folder / "out",
        tracker=NullTracker(),
        compute=ComputeConfig(threads=1, checkpoint_every_s=float(checkpoint_every_s)),
    )
