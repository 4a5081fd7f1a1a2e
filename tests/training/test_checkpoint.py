"""Checkpoints: whole or not there, and read only when they are what was written."""

import logging
import os
from collections.abc import Callable
from pathlib import Path
from types import ModuleType

import pytest
import torch

from genxfer.errors import StoreError
from genxfer.training.checkpoint import Checkpoint, checkpoint_files, read_newest, write_checkpoint
from genxfer.training.loop import CURVES_FILE, FRAMES_FILE


def checkpoint(images_seen: int) -> Checkpoint:
    tensors = {
        "layout": torch.arange(24.0).reshape(1, 2, 3, 4).contiguous(memory_format=torch.channels_last),
        "count": torch.tensor(images_seen),
        "half": torch.ones(3, dtype=torch.bfloat16),
        "empty": torch.empty(0),
    }
    return Checkpoint(images_seen, tensors, {"loss_counts": {"kl": 3}})


def test_a_checkpoint_comes_back_as_it_was(tmp_path: Path) -> None:
    write_checkpoint(tmp_path, checkpoint(64))
    back = read_newest(tmp_path)
    assert back is not None
    assert (back.images_seen, back.facts) == (64, {"loss_counts": {"kl": 3}})
    expected = checkpoint(64).tensors
    assert back.tensors.keys() == expected.keys()
    assert all(torch.equal(back.tensors[name], expected[name]) for name in expected)


def test_the_last_two_are_kept(tmp_path: Path) -> None:
    for images_seen in (8, 64, 1_000, 999_999_999):
        write_checkpoint(tmp_path, checkpoint(images_seen))
    assert images_seen_of(tmp_path) == [999_999_999, 1_000]
    assert len(list(tmp_path.iterdir())) == 2


@pytest.mark.parametrize(("kept", "left"), [(1, [64]), (2, [64, 32])])
def test_what_is_written_replaces_checkpoints_that_stand_further_on(kept: int, left: list[int], tmp_path: Path) -> None:
    for images_seen in (32, 1_000, 2_000):  # of an attempt that came further
        write_checkpoint(tmp_path, checkpoint(images_seen), kept=3)
    write_checkpoint(tmp_path, checkpoint(64), kept)
    assert images_seen_of(tmp_path) == left


def images_seen_of(folder: Path) -> list[int]:
    return [int(path.stem.split("-")[1]) for path in checkpoint_files(folder)]


@pytest.mark.parametrize("damage", ["truncated", "flipped", "empty"])
def test_a_torn_newest_one_gives_way_to_the_one_before(
    damage: str, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    write_checkpoint(tmp_path, checkpoint(64))
    newest = write_checkpoint(tmp_path, checkpoint(128))
    data = bytearray(newest.read_bytes())
    data[-20] ^= 1
    newest.write_bytes({"truncated": data[:-20], "flipped": data, "empty": b""}[damage])
    with caplog.at_level(logging.WARNING, "genxfer.training"):
        back = read_newest(tmp_path)
    assert back is not None
    assert back.images_seen == 64
    assert newest.name in caplog.text
    assert "damaged" in caplog.text
    write_checkpoint(tmp_path, checkpoint(192))
    assert images_seen_of(tmp_path) == [192, 64]  # the damaged one is none of the two


def test_changed_facts_are_found_out(tmp_path: Path) -> None:
    path = write_checkpoint(tmp_path, checkpoint(64))
    path.write_bytes(path.read_bytes().replace(b'\\"kl\\": 3', b'\\"kl\\": 4'))
    assert read_newest(tmp_path) is None
    assert path.exists()  # there is none to go back to


def test_no_checkpoint_is_a_fresh_start(tmp_path: Path) -> None:
    assert read_newest(tmp_path / "not there") is None
    assert read_newest(tmp_path) is None


def test_a_disk_that_takes_nothing_is_an_error_that_says_so(tmp_path: Path) -> None:
    (tmp_path / "work").write_text("a file where the folder should be")
    with pytest.raises(StoreError, match=r"checkpoint-0+64\.safetensors could not be written: .*Make room"):
        write_checkpoint(tmp_path / "work", checkpoint(64))


def test_what_a_checkpoint_relies_on_is_on_the_disk_before_it(
    small: ModuleType, train_small: Callable[..., object], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Rows and frames up to a checkpoint are not written again: after a power cut they would be missing."""
    synced: dict[int, int] = {}  # the size that a file had, by its number
    relied_on: list[bool] = []
    fsync, replace = os.fsync, os.replace

    def observed_fsync(descriptor: int) -> None:
        fsync(descriptor)
        state = os.fstat(descriptor)
        synced[state.st_ino] = state.st_size

    def observed_replace(path: Path, name: Path) -> None:
        if name.name.startswith("checkpoint-"):
            for file in (CURVES_FILE, FRAMES_FILE):
                state = (tmp_path / "work" / file).stat()
                relied_on.append(synced.get(state.st_ino) == state.st_size > 0)
        replace(path, name)

    monkeypatch.setattr(os, "fsync", observed_fsync)
    monkeypatch.setattr(os, "replace", observed_replace)
    keys = {"checkpoint_every_s": 0.0, "report_every_kimg": 0.004, "validate_every_kimg": 0.004}
    train_small(small.small_family("vae"), on_divergence="rollback", **keys)
    assert relied_on
    assert all(relied_on)
