import io

import numpy as np
import pytest
from image_files import encoded, pixels
from PIL import Image

from genxfer.data.prepare import prepare
from genxfer.data.sources import UndecodableError, decode

GRAY = pixels(1, 16, 16)
RGB = pixels(2, 16, 16, 3)


def through_file(image: Image.Image, kind: str = "PNG", channels: int = 3, **options: object) -> np.ndarray:
    return prepare(decode(io.BytesIO(encoded(image, kind, **options))), 16, channels)[0]


def test_pixels_of_the_right_size_come_through_untouched() -> None:
    np.testing.assert_array_equal(through_file(Image.fromarray(GRAY), channels=1), GRAY[None])
    np.testing.assert_array_equal(through_file(Image.fromarray(RGB)), RGB.transpose(2, 0, 1))
    np.testing.assert_array_equal(through_file(Image.fromarray(GRAY)), np.stack([GRAY] * 3))


def test_gray_from_colour_is_luma() -> None:
    red = Image.new("RGB", (16, 16), (255, 0, 0))
    assert np.unique(through_file(red, channels=1)).tolist() == [76]  # 0.299 of 255, ITU-R 601


def test_transparency_lies_over_white() -> None:
    half = Image.new("RGBA", (16, 16), (0, 0, 0, 128))
    assert np.unique(through_file(half)).tolist() == [127]
    assert np.unique(through_file(Image.new("LA", (16, 16), (10, 0)), channels=1)).tolist() == [255]
    palette = Image.fromarray(GRAY // 64 * 64).convert("P")
    palette.info["transparency"] = 0
    assert np.all(through_file(palette, channels=1)[0][GRAY < 64] == 255)
    assert np.all(through_file(Image.new("RGB", (16, 16), (9, 9, 9)), transparency=(9, 9, 9)) == 255)


def test_sixteen_bits_are_scaled_and_not_clipped() -> None:
    wide = Image.fromarray(GRAY.astype(np.uint16) * 257)
    assert wide.mode == "I;16"
    np.testing.assert_array_equal(through_file(wide, channels=1), GRAY[None])
    over_white = np.where(GRAY[0, 0] == GRAY, 255, GRAY)
    transparent = through_file(wide, channels=1, transparency=int(GRAY[0, 0]) * 257)
    np.testing.assert_array_equal(transparent, over_white[None])


def test_a_palette_is_looked_up() -> None:
    coarse = Image.fromarray(RGB // 128 * 255).quantize(16)
    np.testing.assert_array_equal(through_file(coarse), np.asarray(coarse.convert("RGB")).transpose(2, 0, 1))
    bits = Image.fromarray(GRAY > 127)
    np.testing.assert_array_equal(through_file(bits, channels=1), (GRAY > 127)[None] * np.uint8(255))


@pytest.mark.parametrize("mode", ["L", "RGB", "CMYK"])
def test_a_jpeg_is_close_to_what_was_saved(mode: str) -> None:
    image = Image.fromarray(RGB // 2 + 64).convert(mode)
    decoded = through_file(image, "JPEG", quality=100, subsampling=0)
    expected = np.asarray(image.convert("RGB")).transpose(2, 0, 1)
    assert np.abs(decoded.astype(int) - expected).mean() < 4


def test_the_central_square_is_kept() -> None:
    wide = np.zeros((16, 48), np.uint8)
    wide[:, 16:32] = GRAY
    np.testing.assert_array_equal(through_file(Image.fromarray(wide), channels=1), GRAY[None])


def test_shrinking_does_not_alias() -> None:
    stripes = np.tile(np.array([0, 255], np.uint8), (64, 32))
    shrunk = prepare(Image.fromarray(stripes), 16, 1)[0]
    assert np.abs(shrunk.astype(int) - 127).max() < 12


def test_the_facts_tell_colour_and_stored_size() -> None:
    _, facts = prepare(Image.fromarray(RGB), 8, 1)
    assert (facts.width_px, facts.height_px, facts.is_colour) == (16, 16, True)
    assert not prepare(Image.fromarray(np.stack([GRAY] * 3, -1)), 8, 1)[1].is_colour


def test_pixels_without_a_range_are_refused() -> None:
    with pytest.raises(UndecodableError, match="floating-point"):
        prepare(Image.new("F", (8, 8)), 8, 1)
