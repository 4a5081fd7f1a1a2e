"""Sample grids: seen well where images are small, and no larger than need be where they are not."""

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from genxfer.report.grid import grid
from genxfer.stages.pictures import GRID_IMAGES, save_grid


@pytest.mark.parametrize(("side_px", "scale"), [(8, 12), (16, 6), (32, 3), (64, 1), (128, 1)])
def test_small_images_are_enlarged_and_large_ones_are_not(side_px: int, scale: int, tmp_path: Path) -> None:
    images = np.random.default_rng(0).integers(0, 255, (GRID_IMAGES + 1, 1, side_px, side_px), dtype=np.uint8)
    save_grid(tmp_path / "samples.png", images)
    with Image.open(tmp_path / "samples.png") as picture:
        assert picture.size == (8 * side_px * scale + 14,) * 2
        expected = grid(images[:GRID_IMAGES], columns=8, scale=scale)[..., 0]
        np.testing.assert_array_equal(np.asarray(picture), expected)
