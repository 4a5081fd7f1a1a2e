"""Train a small model in two ranks from a process of its own, to be killed: launch_small.py FAMILY KIMG FOLDER.

It writes no checkpoint of its own accord, so that one that is there tells of a stop in good order.
"""

import signal
import sys
from pathlib import Path

from genxfer.launch.launcher import launch
from genxfer.training.config import ComputeConfig
from genxfer.training.job import TrainingJob
from genxfer.training.tracker import NullTracker
from genxfer.transfer.config import Full
from tests.training.train_small import packed_images, small_config, small_family


def small_job(name: str, folder: Path, checkpoint_every_s: float = 0.2, **keys: object) -> TrainingJob:
    folder.mkdir(parents=True, exist_ok=True)
    family = small_family(name)
    packed_images(folder, family)
    for own in ("work", "out"):
        (folder / own).mkdir(exist_ok=True)
    return TrainingJob(
        model=family.config.model_dump(mode="json"),
        channels=family.shape.channels,
        resolution_px=family.shape.resolution_px,
        images=folder / "train.npy",
        config=small_config(**keys),
        method=Full().model_dump(),
        compute=ComputeConfig(threads=1, checkpoint_every_s=checkpoint_every_s, precision="fp32"),
        work_dir=folder / "work",
        out_dir=folder / "out",
    )


if __name__ == "__main__":
    signal.signal(signal.SIGTERM, lambda number, frame: sys.exit(128 + number))
    name, kimg, place = sys.argv[1:]
    launch(small_job(name, Path(place), checkpoint_every_s=1000, kimg=float(kimg)), 2, NullTracker())
