"""What a step is fed: images as they are packed, or half of them mirrored, the same whatever the number of ranks."""

from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from genxfer.data.dataset import PackedImages, indices, to_model_range
from genxfer.training.distributed import World
from genxfer.training.feed import Feed
from tests.training.train_small import small_config

BATCH = 200


class OneOfTwo(World):
    """The second of two ranks, as far as a feed asks."""

    rank, size = 1, 2

    def rows(self, batch: int) -> slice:
        return slice(batch // 2, batch)


def fed(folder: Path, *, mirror: bool, images_seen: int = 0, world: World | None = None) -> tuple[Tensor, Tensor]:
    """Return a batch, and the same images as they are packed."""
    path = folder / "train.npy"
    np.save(path, np.random.default_rng(0).integers(0, 256, (BATCH, 3, 8, 8), dtype=np.uint8))
    images, config, world = PackedImages(path), small_config(batch=BATCH, mirror=mirror), world or World()
    batch = Feed(images, config, world, torch.contiguous_format).batch(images_seen)
    chosen = indices(len(images), config.seed, images_seen, BATCH, world.rank, world.size)
    return batch, to_model_range(images.batch(chosen), torch.contiguous_format)


def mirrored(batch: Tensor, packed: Tensor) -> Tensor:
    """Return which images of `batch` are mirrored [N]; every one is as packed or exactly that."""
    as_packed = (batch == packed).flatten(1).all(dim=1)
    flipped = (batch == packed.flip(3)).flatten(1).all(dim=1)
    assert (as_packed ^ flipped).all()
    return flipped


def test_images_are_mirrored_only_where_that_is_asked_for(tmp_path: Path) -> None:
    assert not mirrored(*fed(tmp_path, mirror=False)).any()


def test_half_of_the_images_are_mirrored_in_each_step_others(tmp_path: Path) -> None:
    first, again, later = (mirrored(*fed(tmp_path, mirror=True, images_seen=seen)) for seen in (0, 0, BATCH))
    assert 70 < first.sum() < 130  # of 200: four standard deviations around half
    assert torch.equal(first, again)
    assert not torch.equal(first, later)


def test_a_rank_mirrors_the_images_that_one_process_would(tmp_path: Path) -> None:
    whole, (own, packed) = fed(tmp_path, mirror=True)[0], fed(tmp_path, mirror=True, world=OneOfTwo())
    assert mirrored(own, packed).any()
    assert torch.equal(own, whole[BATCH // 2 :])
