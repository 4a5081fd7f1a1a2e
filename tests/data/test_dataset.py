from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from genxfer.data.dataset import PackedImages, indices, to_model_range, to_uint8
from genxfer.errors import DataError

sizes = st.integers(1, 40)
seeds = st.integers(0, 2**40)


@given(sizes, seeds, st.integers(1, 70), st.integers(1, 6))
def test_every_epoch_sees_every_image_once(n: int, seed: int, batch: int, epochs: int) -> None:
    steps = -(-n * epochs // batch)
    stream = np.concatenate([indices(n, seed, step * batch, batch) for step in range(steps)])
    for epoch in range(epochs):
        assert sorted(stream[epoch * n : (epoch + 1) * n]) == list(range(n))


@given(sizes, seeds, st.integers(0, 500), st.integers(1, 8), st.integers(1, 12))
def test_the_ranks_together_see_what_one_rank_sees(n: int, seed: int, seen: int, world_size: int, share: int) -> None:
    batch = world_size * share
    shares = [indices(n, seed, seen, batch, rank, world_size) for rank in range(world_size)]
    np.testing.assert_array_equal(np.concatenate(shares), indices(n, seed, seen, batch))


@given(sizes, seeds, st.integers(0, 500), st.integers(1, 30), st.integers(1, 30))
def test_another_batch_size_sees_the_same_stream(n: int, seed: int, seen: int, first: int, second: int) -> None:
    together = indices(n, seed, seen, first + second)
    apart = np.concatenate([indices(n, seed, seen, first), indices(n, seed, seen + first, second)])
    np.testing.assert_array_equal(together, apart)


def test_epochs_and_seeds_shuffle_differently() -> None:
    orders = {tuple(indices(30, seed, epoch * 30, 30)) for seed in range(3) for epoch in range(3)}
    assert len(orders) == 9


def test_what_a_caller_does_to_a_batch_harms_no_later_one() -> None:
    before = indices(10, 0, 0, 10).copy()
    indices(10, 0, 0, 10)[:] = 0
    np.testing.assert_array_equal(indices(10, 0, 0, 10), before)


@pytest.mark.parametrize(("batch", "rank", "world_size"), [(10, 0, 3), (10, 2, 2), (10, -1, 2)])
def test_a_batch_that_does_not_divide_is_refused(batch: int, rank: int, world_size: int) -> None:
    with pytest.raises(ValueError, match="no share"):
        indices(100, 0, 0, batch, rank, world_size)


def test_a_batch_is_the_images_asked_for(tmp_path: Path) -> None:
    array = np.random.default_rng(0).integers(0, 256, (9, 3, 8, 8), dtype=np.uint8)
    np.save(tmp_path / "a.npy", array)
    images = PackedImages(tmp_path / "a.npy")
    chosen = np.array([8, 0, 0, 3])
    batch = images.batch(chosen)
    assert (len(images), images.shape, batch.dtype) == (9, (3, 8, 8), torch.uint8)
    np.testing.assert_array_equal(batch.numpy(), array[chosen])
    batch.zero_()
    np.testing.assert_array_equal(images.batch(chosen).numpy(), array[chosen])


@pytest.mark.parametrize("content", [np.zeros((2, 3), np.uint8), np.zeros((2, 1, 8, 8), np.float32)])
def test_an_array_of_something_else_is_refused(tmp_path: Path, content: np.ndarray) -> None:
    np.save(tmp_path / "a.npy", content)
    with pytest.raises(DataError, match="not uint8 images"):
        PackedImages(tmp_path / "a.npy")


def test_a_torn_or_missing_array_is_told(tmp_path: Path) -> None:
    np.save(tmp_path / "a.npy", np.zeros((2, 1, 8, 8), np.uint8))
    (tmp_path / "a.npy").write_bytes((tmp_path / "a.npy").read_bytes()[:150])
    for name in ("a.npy", "b.npy"):
        with pytest.raises(DataError, match=name):
            PackedImages(tmp_path / name)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_the_two_ranges_are_inverse(dtype: torch.dtype) -> None:
    levels = torch.arange(256, dtype=torch.uint8)
    scaled = to_model_range(levels)
    assert (scaled.dtype, scaled[0].item(), scaled[-1].item()) == (torch.float32, -1, 1)
    assert torch.equal(to_uint8(scaled.to(dtype)), levels)


def test_out_of_range_is_clamped_and_the_input_stays() -> None:
    images = torch.tensor([-3.0, -1.0, 0.0, 1.0, 3.0])
    before = images.clone()
    assert to_uint8(images).tolist() == [0, 0, 128, 255, 255]
    assert torch.equal(images, before)
