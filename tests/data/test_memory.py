"""Domains larger than memory: what reading them costs in memory, measured in processes of their own."""

import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch

from genxfer.data import dataset
from genxfer.data.dataset import PackedImages
from genxfer.errors import DataError

ALLOWED_MB = 300

# VmHWM and not ru_maxrss: the latter begins with the peak of the process that started this one.
READER = """
import sys
from pathlib import Path
from genxfer.data.dataset import PackedImages, indices

images, batches, batch = PackedImages(Path(sys.argv[1])), *map(int, sys.argv[2:])
for step in range(batches):
    images.batch(indices(len(images), 0, step * batch, batch))
print(next(line.split()[1] for line in open("/proc/self/status") if line.startswith("VmHWM")))
"""


def peak_mb(path: Path, batches: int, batch: int) -> float:
    """Return the peak memory of a process that reads so many random batches of `path`."""
    command = [sys.executable, "-c", READER, str(path), str(batches), str(batch)]
    reader = subprocess.run(
        command, env=os.environ | {"OMP_NUM_THREADS": "1"}, capture_output=True, text=True, check=True
    )
    return int(reader.stdout) / 1024


def packed(path: Path, *shape: int) -> Path:
    """Make a file of black images that takes no disk, and read it once: a memory map of cached pages grows fastest."""
    np.lib.format.open_memmap(path, "w+", np.uint8, shape)
    with path.open("rb", buffering=0) as file:
        while file.read(1 << 24):
            pass
    return path


@pytest.mark.slow
def test_a_domain_of_200_000_images_needs_hardly_more_memory_than_one_of_1_000(tmp_path: Path) -> None:
    many, few = packed(tmp_path / "many.npy", 200_000, 3, 64, 64), packed(tmp_path / "few.npy", 1_000, 3, 64, 64)
    batches = 2 * 200_000 // 256
    assert peak_mb(many, batches, 256) <= peak_mb(few, batches, 256) + ALLOWED_MB


@pytest.fixture
def array(monkeypatch: pytest.MonkeyPatch) -> np.ndarray:
    """Images of which a file is too large to be mapped, by a limit that is lower than the real one."""
    array = np.random.default_rng(0).integers(0, 256, (300, 3, 8, 8), dtype=np.uint8)
    monkeypatch.setattr(dataset, "MAPPED_BYTES", array.nbytes - 1)
    return array


@pytest.mark.parametrize("n", [300, 299, 0])
def test_a_file_that_is_not_mapped_gives_the_same_images(tmp_path: Path, array: np.ndarray, n: int) -> None:
    np.save(tmp_path / "a.npy", array[:n])
    images = PackedImages(tmp_path / "a.npy")
    assert (len(images), images.shape) == (n, (3, 8, 8))
    for seed in range(20):
        chosen = np.random.default_rng(seed).integers(0, max(n, 1), seed if n else 0)
        batch = images.batch(chosen)
        assert batch.dtype == torch.uint8
        assert torch.equal(batch, torch.from_numpy(array[chosen]))


@pytest.mark.parametrize("wrong", [-1, 300])
def test_an_image_that_is_not_there_is_refused(tmp_path: Path, array: np.ndarray, wrong: int) -> None:
    np.save(tmp_path / "a.npy", array)
    with pytest.raises(IndexError, match=str(wrong)):
        PackedImages(tmp_path / "a.npy").batch(np.array([0, wrong]))


def test_a_file_cut_while_it_is_read_is_told(tmp_path: Path, array: np.ndarray) -> None:
    np.save(tmp_path / "a.npy", array)
    images = PackedImages(tmp_path / "a.npy")
    os.truncate(tmp_path / "a.npy", array.nbytes // 2)
    with pytest.raises(DataError, match=r"a\.npy has become shorter"):
        images.batch(np.array([0, 299]))


def test_no_file_stays_open_when_nobody_reads_it_any_more(tmp_path: Path, array: np.ndarray) -> None:
    np.save(tmp_path / "a.npy", array)
    before = len(os.listdir("/proc/self/fd"))
    images = PackedImages(tmp_path / "a.npy")
    assert len(os.listdir("/proc/self/fd")) == before + 1
    del images
    assert len(os.listdir("/proc/self/fd")) == before
