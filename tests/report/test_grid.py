"""Grids: every image in its place, the background where none is, PNG bytes that read back the same."""

import io
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from genxfer.report.grid import encode_png, grid, save_png


def numbered(n: int, channels: int = 1, size_px: int = 4) -> np.ndarray:
    values = np.arange(1, n + 1, dtype=np.uint8)[:, None, None, None]
    return np.broadcast_to(values, (n, channels, size_px, size_px)).copy()


@pytest.mark.parametrize("channels", [1, 3])
def test_each_image_stands_in_its_row_and_column_on_the_background(channels: int) -> None:
    picture = grid(numbered(5, channels), columns=3, scale=2, gap=1, background=200)
    assert picture.shape == (2 * 8 + 1, 3 * 8 + 2, channels)
    assert (picture[:8, 9:17] == 2).all()
    assert (picture[9:, :8] == 4).all()
    assert (picture[8] == 200).all()
    assert (picture[9:, 18:] == 200).all()


def test_scaling_repeats_pixels_and_keeps_their_order() -> None:
    image = np.array([[[[1, 2], [3, 4]]]], dtype=np.uint8)
    assert grid(image, columns=1, scale=2)[..., 0].tolist() == [[1, 1, 2, 2], [1, 1, 2, 2], [3, 3, 4, 4], [3, 3, 4, 4]]


def test_a_grid_without_background_is_transparent_where_no_image_is() -> None:
    picture = grid(numbered(3, channels=3), columns=2, gap=1, background=None)
    assert picture.shape == (9, 9, 4)
    assert (picture[:4, :4, 3] == 255).all()
    assert (picture[4, :, 3] == 0).all()
    assert (picture[5:, 5:, 3] == 0).all()


def test_fewer_images_than_columns_leave_no_empty_columns() -> None:
    assert grid(numbered(2), columns=8, gap=0).shape == (4, 8, 1)


@pytest.mark.parametrize("images", [numbered(2).astype(np.float32), numbered(2, channels=2), numbered(0)])
def test_arrays_that_are_no_images_are_refused(images: np.ndarray) -> None:
    with pytest.raises(ValueError, match="uint8 images"):
        grid(images, columns=2)


@pytest.mark.parametrize(("channels", "background"), [(1, 255), (1, None), (3, 255), (3, None)])
def test_a_png_reads_back_as_the_same_pixels(channels: int, background: int | None) -> None:
    images = np.random.default_rng(0).integers(0, 256, (5, channels, 6, 6), dtype=np.uint8)
    picture = grid(images, columns=2, background=background)
    read = np.asarray(Image.open(io.BytesIO(encode_png(picture)))).reshape(picture.shape)
    assert np.array_equal(read, picture)
    assert encode_png(picture) == encode_png(picture.copy())


def test_a_saved_picture_appears_whole_and_alone(tmp_path: Path) -> None:
    picture = grid(numbered(4), columns=2)
    save_png(tmp_path / "new" / "samples.png", picture)
    assert (tmp_path / "new" / "samples.png").read_bytes() == encode_png(picture)
    assert [path.name for path in (tmp_path / "new").iterdir()] == ["samples.png"]
