"""The filmstrip: the same noises over a run, kept through kills, thinned without losing what is published."""

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch

from genxfer.data.dataset import to_uint8
from genxfer.models.config import FAMILIES
from genxfer.models.family import Family, sample
from genxfer.training.distributed import World
from genxfer.training.engine import FILMSTRIP_FILE
from genxfer.training.filmstrip import (
    FRAME_IMAGES,
    MOST_FRAMES,
    FilmFile,
    Filmstrip,
    load_filmstrip,
    save_filmstrip,
)
from genxfer.training.interrupt import Interrupted
from genxfer.training.loop import FRAMES_FILE
from genxfer.training.pace import TrainResult
from tests.training.stopping import StopAt
from tests.training.train_small import small_config, small_family, small_validation

TrainSmall = Callable[..., TrainResult]
KEYS = {"kimg": 0.048, "validate_every_kimg": 0.012, "lr": 0.01}


def strip_of(folder: Path) -> Filmstrip:
    return load_filmstrip(folder / "out" / FILMSTRIP_FILE)


def drawn_by(family: Family, folder: Path) -> np.ndarray:
    seed = small_validation(folder, family, small_config(), World()).seed
    return to_uint8(sample(family, family.nets.eval(), FRAME_IMAGES, seed)).numpy()


@pytest.mark.parametrize("name", FAMILIES)
def test_a_stopped_run_leaves_the_strip_of_one_that_was_not(name: str, train_small: TrainSmall, tmp_path: Path) -> None:
    train_small(small_family(name), tmp_path / "whole", **KEYS)
    with pytest.raises(Interrupted):
        train_small(small_family(name), tmp_path / "parts", tracker=StopAt(30), **KEYS)
    # A kill after the checkpoint leaves a frame that is drawn again, and maybe one that is torn.
    family = small_family(name)
    film = FilmFile(tmp_path / "parts/work" / FRAMES_FILE, family.shape.channels, family.shape.resolution_px)
    film.add(np.zeros_like(film.strip().frames[0]), 36)
    with film.path.open("ab") as file:
        file.write(np.int64(44).tobytes() + b"torn")
    assert train_small(small_family(name, seed=9), tmp_path / "parts", **KEYS).resumed_from == 32
    whole, parts = (tmp_path / run / "out" / FILMSTRIP_FILE for run in ("whole", "parts"))
    assert parts.read_bytes() == whole.read_bytes()
    assert strip_of(tmp_path / "parts").images_seen.tolist() == [0, 12, 24, 36, 48]


@pytest.mark.parametrize("name", FAMILIES)
def test_it_begins_with_the_model_of_the_start_and_has_the_published_one(
    name: str, train_small: TrainSmall, tmp_path: Path
) -> None:
    family = small_family(name)
    at_start = drawn_by(family, tmp_path)
    result = train_small(family, **KEYS)
    strip = strip_of(tmp_path)
    assert strip.frames.dtype == np.uint8
    assert strip.frames.shape == (5, FRAME_IMAGES, *at_start.shape[1:])
    assert np.array_equal(strip.frames[0], at_start)
    assert result.best_kimg is not None
    (published,) = np.flatnonzero(strip.images_seen == result.best_kimg * 1000)
    assert np.array_equal(strip.frames[published], drawn_by(family, tmp_path))
    assert not np.array_equal(strip.frames[published], at_start)


def test_a_run_without_validation_has_no_frame(train_small: TrainSmall, tmp_path: Path) -> None:
    train_small(small_family("mlp_vae"))
    assert strip_of(tmp_path).frames.shape == (0, FRAME_IMAGES, 1, 28, 28)
    assert strip_of(tmp_path).images_seen.tolist() == []


def test_a_run_from_the_beginning_forgets_the_frames_of_another(train_small: TrainSmall, tmp_path: Path) -> None:
    (tmp_path / "work").mkdir()
    stale = FilmFile(tmp_path / "work" / FRAMES_FILE, 1, 28)
    for images_seen in (0, 4):
        stale.add(np.ones((FRAME_IMAGES, 1, 28, 28), np.uint8), images_seen)
    train_small(small_family("mlp_vae"), **KEYS)
    assert strip_of(tmp_path).images_seen.tolist() == [0, 12, 24, 36, 48]


def test_nets_that_draw_no_numbers_leave_gray_frames(train_small: TrainSmall, tmp_path: Path) -> None:
    family = small_family("mlp_vae")
    family.decode = lambda nets, noise: torch.full((len(noise), 1, 28, 28), torch.nan)  # type: ignore[method-assign]
    train_small(family, validate_every_kimg=0.02)
    assert set(strip_of(tmp_path).frames.flat) == {128}


@pytest.mark.parametrize("published", [0, 300, 410, 500, 507, 1000, 7, None])
def test_a_long_strip_is_thinned_evenly_and_keeps_the_published_frame(published: int | None, tmp_path: Path) -> None:
    seen = np.unique([*range(0, 1001, 10), *([] if published is None else [published])]).astype(np.int64)
    frames = np.broadcast_to(
        (seen % 251).astype(np.uint8)[:, None, None, None, None], (len(seen), FRAME_IMAGES, 1, 2, 2)
    )
    thin = Filmstrip(np.ascontiguousarray(frames), seen).thinned(published)
    save_filmstrip(tmp_path / "strip", thin)
    thin = load_filmstrip(tmp_path / "strip")
    assert len(thin.images_seen) == MOST_FRAMES
    assert (thin.images_seen[0], thin.images_seen[-1]) == (0, 1000)
    assert published is None or published in thin.images_seen
    assert np.array_equal(thin.frames[:, 0, 0, 0, 0], thin.images_seen % 251)
    assert np.diff(thin.images_seen).max() <= 190
