import io
from collections.abc import Callable

import numpy as np
import pytest
from image_files import encoded
from PIL import Image, ImageEnhance
from sklearn.datasets import load_digits, load_sample_images

from genxfer.data import duplicates
from genxfer.data.duplicates import Twin, describe, groups, twins
from genxfer.data.prepare import prepare
from genxfer.data.raw import package_pixels


def saved(image: Image.Image, quality: int) -> Image.Image:
    return Image.open(io.BytesIO(encoded(image, "JPEG", quality=quality)))


def packed(images: list[Image.Image], resolution_px: int = 32, channels: int = 3) -> np.ndarray:
    return np.stack([prepare(image, resolution_px, channels)[0] for image in images])


@pytest.fixture(scope="module")
def photos() -> list[Image.Image]:
    """Sixty squares of 96 pixels, none overlapping another, of two photographs; plain sky is left out."""
    squares = [
        photo[top : top + 96, left : left + 96]
        for photo in load_sample_images().images
        for top in range(0, 427 - 96, 96)
        for left in range(0, 640 - 96, 96)
    ]
    return [Image.fromarray(square) for square in squares if square.std(axis=(0, 1)).max() > 20]


COPIES: dict[str, Callable[[Image.Image], Image.Image]] = {
    "the same": lambda image: image,
    "saved as JPEG": lambda image: saved(image, 60),
    "half the size": lambda image: image.resize((48, 48)),
    "twice the size": lambda image: image.resize((192, 192)),
    "half the size, saved as JPEG": lambda image: saved(image.resize((48, 48)), 80),
    "a little darker": lambda image: ImageEnhance.Brightness(image).enhance(0.85),
    "with less contrast": lambda image: ImageEnhance.Contrast(image).enhance(0.9),
}


@pytest.mark.parametrize("channels", [1, 3])
@pytest.mark.parametrize("resolution_px", [16, 28, 64])
@pytest.mark.parametrize("copy", COPIES)
def test_a_copy_of_a_photograph_is_a_twin_of_it_and_of_no_other(
    photos: list[Image.Image], copy: str, resolution_px: int, channels: int
) -> None:
    originals = packed(photos, resolution_px, channels)
    copies = packed([COPIES[copy](photo) for photo in photos], resolution_px, channels)
    found = twins(describe(originals), describe(copies))
    assert [(twin.image, twin.twin) for twin in found] == [(index, index) for index in range(len(photos))]
    if copy == "the same":
        assert all(twin.exact for twin in found)


def test_other_photographs_and_other_colours_are_no_twins(photos: list[Image.Image]) -> None:
    images = packed(photos)
    described = describe(images)
    assert groups(described).tolist() == list(range(len(images)))
    colourful = [index for index, image in enumerate(images) if np.ptp(image.astype(int), axis=0).mean() > 60]
    assert len(colourful) >= 5
    assert twins(described, describe(images[colourful][:, [2, 0, 1]])) == []


@pytest.mark.parametrize("resolution_px", [16, 28, 32])
@pytest.mark.parametrize("kind", ["digits", "mnist"])
def test_of_handwritten_digits_hardly_any_are_joined_and_only_ones(kind: str, resolution_px: int) -> None:
    digits = load_digits().target if kind == "digits" else np.arange(5000) // 500
    images = packed([Image.fromarray(image) for image in package_pixels(kind)], resolution_px, channels=1)  # type: ignore[arg-type]
    group = groups(describe(images))
    joined = np.flatnonzero(group != np.arange(len(group)))
    assert len(joined) <= 10
    assert set(digits[joined]) | set(digits[group[joined]]) <= {1}


def test_near_duplicates_of_near_duplicates_are_one_group_named_by_its_first(photos: list[Image.Image]) -> None:
    frames = packed([Image.blend(photos[0], photos[1], step / 50) for step in range(7)])
    others = packed(photos[2:5])
    described = describe(np.concatenate([others[:1], frames, others[1:]]))
    assert twins(described.of([1]), described.of([7])) == []
    assert groups(described).tolist() == [0, *[1] * 7, 8, 9]


def test_images_without_contrast_show_the_same_and_nothing_else_does() -> None:
    noise = np.random.default_rng(0).integers(-1, 2, (3, 1, 32, 32))
    images = np.concatenate([noise + 40, noise + 200, noise[:1] * 40 + 128]).astype(np.uint8)
    assert groups(describe(images)).tolist() == [0, 0, 0, 0, 0, 0, 6]


def test_neither_blocks_nor_order_change_what_is_found(monkeypatch: pytest.MonkeyPatch) -> None:
    rng = np.random.default_rng(0)
    of = np.sort(rng.integers(0, 40, 100))
    images = rng.integers(0, 256, (40, 3, 8, 8), dtype=np.uint8)[of]
    first = [int(np.flatnonzero(of == one)[0]) for one in of]
    expected = [
        Twin(i, int(np.flatnonzero(of[:50] == of[50 + i])[0]), True) for i in range(50) if of[50 + i] in of[:50]
    ]
    for block, pixels in ((1024, 1 << 22), (7, 500), (1, 1)):
        monkeypatch.setattr(duplicates, "_BLOCK", block)
        monkeypatch.setattr(duplicates, "_PIXELS", pixels)
        described = describe(images)
        assert groups(described).tolist() == first
        assert twins(described.of(range(50)), described.of(range(50, 100))) == expected
    shuffled = rng.permutation(100)
    sizes = np.unique(groups(described.of(shuffled.tolist())), return_counts=True)[1]
    assert sorted(sizes) == sorted(np.unique(of, return_counts=True)[1])


def test_a_set_of_no_images_has_no_twins() -> None:
    some, none = describe(np.zeros((3, 1, 16, 16), np.uint8)), describe(np.zeros((0, 1, 16, 16), np.uint8))
    assert twins(some, none) == twins(none, some) == []
    assert len(groups(none)) == 0
