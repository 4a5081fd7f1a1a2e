"""A disk that takes no more while a run trains: said as the store's error, at once, and another attempt goes on."""

import math
import resource
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import pytest
from torch import Tensor

from genxfer.errors import StoreError
from genxfer.launch.launcher import launch
from genxfer.models.family import Step
from genxfer.training.engine import LAST_GOOD_FOLDER
from genxfer.training.filmstrip import FRAME_IMAGES, FilmFile
from genxfer.training.loop import CURVES_FILE, FRAMES_FILE
from genxfer.training.pace import TrainResult
from genxfer.training.tracker import CurveFile, NullTracker
from tests.launch.launch_small import small_job
from tests.training.train_small import packed_images, small_family

TrainSmall = Callable[..., TrainResult]
FULL = r"could not be written: No space left on device\. Make room"
LIMITED = r"could not be written: File too large\. Make room"
IN_THE_WAY = r"could not be written: .*Make room"


@contextmanager
def limited_files(most_bytes: int) -> Iterator[None]:
    """Let no file of this process grow beyond `most_bytes`."""
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (most_bytes, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


def fill_disk(path: Path) -> None:
    """Put a device without room where a run appends to `path`."""
    path.unlink()
    path.symlink_to("/dev/full")


class FillsDisk(NullTracker):
    """Leaves no room for what is appended to `path` after the first report; counts how often training starts."""

    def __init__(self, path: Path) -> None:
        self.path, self.starts = path, 0

    def start(self, total_images: int, images_seen: int) -> None:
        self.starts += 1

    def log(self, values: object, images_seen: int) -> None:
        if not self.path.is_symlink():
            fill_disk(self.path)


def test_curves_without_room_are_an_error_that_says_so(tmp_path: Path) -> None:
    (tmp_path / "in the way").write_text("a file where the folder should be")
    with pytest.raises(StoreError, match=IN_THE_WAY):
        CurveFile(tmp_path / "in the way" / CURVES_FILE).start(100, 0)
    file = CurveFile(tmp_path / CURVES_FILE)
    file.start(100, 0)
    file.log({"kl": 0.5}, 10)
    with limited_files(20), pytest.raises(StoreError, match=rf"{CURVES_FILE} {LIMITED}"):
        file.log({"kl": 0.5, "r1": 0.5}, 20)
    with limited_files(20), pytest.raises(StoreError, match=rf"{CURVES_FILE} {LIMITED}"):
        CurveFile(file.path).start(100, 10)
    assert file.path.read_text() == "images_seen,kl\n10,0.5\n"
    file.start(100, 10)
    fill_disk(file.path)
    with pytest.raises(StoreError, match=rf"{CURVES_FILE} {FULL}"):
        file.log({"kl": 0.25}, 20)


def test_frames_without_room_are_an_error_that_says_so(tmp_path: Path) -> None:
    images = np.zeros((FRAME_IMAGES, 1, 4, 4), np.uint8)
    film = FilmFile(tmp_path / FRAMES_FILE, 1, 4)
    film.start(100, 0)
    film.add(images, 0)
    with limited_files(20), pytest.raises(StoreError, match=rf"{FRAMES_FILE} {LIMITED}"):
        film.start(100, 10)
    fill_disk(film.path)
    with pytest.raises(StoreError, match=rf"{FRAMES_FILE} {FULL}"):
        film.add(images, 10)


@pytest.mark.parametrize("file", [CURVES_FILE, FRAMES_FILE])
def test_a_run_that_finds_the_disk_full_says_so_and_goes_on_later(
    file: str, train_small: TrainSmall, tmp_path: Path
) -> None:
    path = tmp_path / "work" / file
    keys = {"validate_every_kimg": 0.012, "checkpoint_every_s": 0.0}
    with pytest.raises(StoreError, match=rf"{file} {FULL}"):
        train_small(small_family("mlp_vae"), tracker=FillsDisk(path), **keys)
    path.unlink()
    assert train_small(small_family("mlp_vae"), **keys).resumed_from


def test_a_result_without_room_is_an_error_that_says_so(train_small: TrainSmall, tmp_path: Path) -> None:
    family = small_family("mlp_vae")
    packed_images(tmp_path, family)
    with limited_files(40_000), pytest.raises(StoreError, match=rf"{tmp_path / 'out'} {LIMITED}"):
        train_small(family)


def test_last_good_weights_without_room_are_an_error_that_says_so(train_small: TrainSmall, tmp_path: Path) -> None:
    family = small_family("mlp_vae")
    healthy = family.loss

    def diverging(phase: str, real: Tensor, step: Step) -> dict[str, Tensor]:
        terms = healthy(phase, real, step)
        return terms | {"kl": terms["kl"] * (math.nan if step.images_seen >= 20 else 1)}

    family.loss = diverging  # type: ignore[method-assign]
    packed_images(tmp_path, family)
    with limited_files(40_000), pytest.raises(StoreError, match=rf"{tmp_path / 'work' / LAST_GOOD_FOLDER} {LIMITED}"):
        train_small(family)


@pytest.mark.slow
def test_several_processes_that_find_the_disk_full_say_so_and_are_not_started_again(tmp_path: Path) -> None:
    tracker = FillsDisk(tmp_path / "work" / CURVES_FILE)
    with pytest.raises(StoreError, match=rf"{CURVES_FILE} {FULL}"):
        launch(small_job("vae", tmp_path, kimg=400), 2, tracker)
    assert tracker.starts == 1
