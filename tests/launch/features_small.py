"""Take features of a small model's samples in two ranks, from a process of its own: features_small.py N FOLDER."""

import signal
import sys
from pathlib import Path

import numpy as np

from genxfer.launch.launcher import launch
from genxfer.training.feature_job import FeatureJob, PackedSet, SampleSet
from genxfer.training.snapshot import save_snapshot
from genxfer.training.tracker import NullTracker
from tests.training.train_small import small_family


def small_feature_job(folder: Path, n: int = 75, *, name: str = "dcgan", extractor: str = "lite0") -> FeatureJob:
    """Samples of two fresh models and some packed images, in blocks of 32."""
    (folder / "work").mkdir(parents=True, exist_ok=True)
    sets: dict[str, PackedSet | SampleSet] = {}
    for seed in range(2):
        family = small_family(name, seed)
        save_snapshot(folder / str(seed), family, images_seen=0, parent=None)
        files = (folder / str(seed) / "snapshot.safetensors", folder / str(seed) / "snapshot.json")
        sets[f"model_{seed}"] = SampleSet(snapshot=files, n=n, seed=5)
    np.save(folder / "real.npy", np.random.default_rng(0).integers(0, 256, (40, 3, 16, 16), dtype=np.uint8))
    sets["real"] = PackedSet(file=folder / "real.npy", n=40)
    return FeatureJob(
        sets=sets, rows=32, extractor=extractor, extractor_weights=None, threads=1, work_dir=folder / "work"
    )


if __name__ == "__main__":
    signal.signal(signal.SIGTERM, lambda number, frame: sys.exit(128 + number))
    n, place = sys.argv[1:]
    launch(small_feature_job(Path(place), int(n)), 2, NullTracker())
