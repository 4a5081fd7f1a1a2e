"""Features as a job: the bits that one pass over all images would give, block by block, and none of them twice."""

import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file

from genxfer.data.dataset import to_uint8
from genxfer.errors import StoreError
from genxfer.metrics import load_extractor
from genxfer.models.family import SAMPLE_CHUNK, sample
from genxfer.training.distributed import World
from genxfer.training.feature_job import FeatureJob, rows_of_block
from genxfer.training.snapshot import family_of, load_snapshot
from genxfer.training.tracker import NullTracker
from tests.conftest import REPOSITORY
from tests.launch.features_small import small_feature_job

ALLOWED_MB = 25  # for noise of the allocator, beside features


@pytest.mark.parametrize("extractor", ["lite0", "pixels"])
@pytest.mark.parametrize("name", ["dcgan", "vae", "flow"])
def test_blocks_have_the_features_of_all_images_at_once(name: str, extractor: str, tmp_path: Path) -> None:
    job = small_feature_job(tmp_path, name=name, extractor=extractor)
    assert job.run(NullTracker(), World()) == {"images": 190, "processes": 1}
    net = load_extractor(extractor)
    family = family_of(load_snapshot(*job.sets["model_1"].snapshot))  # type: ignore[union-attr]
    whole = net.features(to_uint8(sample(family, family.nets, 75, 5)))
    assert torch.equal(job.features("model_1"), whole)
    assert not torch.equal(job.features("model_0"), whole)
    assert torch.equal(job.features("real"), net.features(torch.from_numpy(np.load(tmp_path / "real.npy"))))


def test_blocks_that_are_there_are_not_taken_again(tmp_path: Path) -> None:
    job = small_feature_job(tmp_path, extractor="pixels")
    job.run(NullTracker(), World())
    there, gone = (job.file(job.blocks[place]) for place in (0, 1))
    before = load_file(gone)["features"]
    save_file({"features": torch.zeros(32, 3 * 16 * 16)}, there)
    gone.unlink()
    job.run(NullTracker(), World())
    features = job.features("model_0")
    assert not features[:32].any()
    assert torch.equal(features[32:64], before)


def test_a_block_that_cannot_be_written_or_read_is_told(tmp_path: Path) -> None:
    job = small_feature_job(tmp_path, extractor="pixels")
    (tmp_path / "work/features").write_text("in the way")
    with pytest.raises(StoreError, match=r"model_0-0-32\.safetensors cannot be written.*goes on"):
        job.run(NullTracker(), World())
    (tmp_path / "work/features").unlink()
    job.run(NullTracker(), World())
    job.file(job.blocks[1]).write_bytes(b"torn")
    with pytest.raises(StoreError, match=r"model_0-32-64\.safetensors cannot be read"):
        job.features("model_0")


@pytest.mark.parametrize("images", [1, 500, 5_000, 50_000, 500_000])
@pytest.mark.parametrize("batch", [4, 16, 48, 1024])
@pytest.mark.parametrize("threads", [1, 6])
def test_a_block_is_whole_batches_and_neither_too_small_nor_too_large(images: int, batch: int, threads: int) -> None:
    rows = rows_of_block(images, batch, threads)
    assert rows % batch == rows % SAMPLE_CHUNK == 0
    assert rows >= batch * threads
    assert rows <= max(512, batch * (threads + SAMPLE_CHUNK))
    if images >= 5_000 and batch * threads <= 16:
        assert images / rows >= 50 or rows == SAMPLE_CHUNK


def test_a_job_survives_its_journey_as_json(tmp_path: Path) -> None:
    job = small_feature_job(tmp_path)
    assert FeatureJob.model_validate_json(job.model_dump_json()) == job


TAKER = """
import sys
from pathlib import Path
from genxfer.metrics import load_extractor
from genxfer.metrics.cache import keep_features
from genxfer.training.distributed import World
from genxfer.training.tracker import NullTracker
from tests.launch.features_small import small_feature_job

def peak_mb():
    return int(next(line.split()[1] for line in open("/proc/self/status") if line.startswith("VmHWM"))) / 1024

folder, n = Path(sys.argv[1]), int(sys.argv[2])
job = small_feature_job(folder, n, name="mlp_gan", extractor="pixels")
job = job.model_copy(update={"sets": {"model_0": job.sets["model_0"]}, "rows": 1024})
job.run(NullTracker(), World())
print(peak_mb())
keep_features(folder, "a" * 64, load_extractor("pixels"), job.features("model_0"))
print(peak_mb())
"""


def peaks_mb(folder: Path, n: int) -> list[float]:
    """Return the peak memory of a process once it has taken the features of `n` samples, and once it has kept them."""
    command = [sys.executable, "-c", TAKER, str(folder), str(n)]
    environment = os.environ | {"OMP_NUM_THREADS": "1"}
    done = subprocess.run(command, cwd=REPOSITORY, env=environment, capture_output=True, text=True, check=True)
    return [float(line) for line in done.stdout.split()]


@pytest.mark.slow
def test_memory_holds_the_features_and_nothing_else_that_grows_with_their_number(tmp_path: Path) -> None:
    few, many = (peaks_mb(tmp_path / str(n), n) for n in (4_000, 40_000))
    features_mb = 36_000 * 28 * 28 * 4 / 2**20  # 108, as much as the samples in floats would take
    assert many[0] <= few[0] + ALLOWED_MB
    assert many[1] <= few[1] + features_mb + ALLOWED_MB
