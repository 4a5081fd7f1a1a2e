"""Where the threshold of near-duplicates stands: digits that must not be joined, photographs whose copies must be.

    python benchmarks/near_duplicates.py                    a minute; pairs.png shows the digits that are joined
    python benchmarks/near_duplicates.py --images 100000    what time and memory so many images take

The photographs are the squares of 96 pixels of scikit-learn's two sample images, without those of plain sky.
"""

import argparse
import io
import resource
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
from PIL import Image, ImageChops, ImageEnhance
from sklearn.datasets import load_sample_images

from genxfer.data.config import PackageKind
from genxfer.data.duplicates import describe, groups
from genxfer.data.prepare import prepare
from genxfer.data.raw import package_pixels
from genxfer.report.grid import grid, save_png

CORRELATIONS = (0.95, 0.97, 0.98, 0.99, 0.995)
SIZES_PX = (16, 28, 32)


def saved(image: Image.Image, quality: int) -> Image.Image:
    """Return `image` as it comes back from a JPEG file."""
    buffer = io.BytesIO()
    image.save(buffer, "JPEG", quality=quality)
    return Image.open(buffer)


COPIES: dict[str, Callable[[Image.Image], Image.Image]] = {
    "JPEG, quality 50": lambda image: saved(image, 50),
    "JPEG, quality 20": lambda image: saved(image, 20),
    "half the size, JPEG 75": lambda image: saved(image.resize((48, 48)), 75),
    "10 % darker": lambda image: ImageEnhance.Brightness(image).enhance(0.9),
    "10 % brighter": lambda image: ImageEnhance.Brightness(image).enhance(1.1),
    "turned by 1 degree": lambda image: image.rotate(1, Image.Resampling.BICUBIC),
    "1 of 96 pixels cut off all round": lambda image: image.crop((1, 1, 95, 95)),
    "moved by 1 of 96 pixels": lambda image: ImageChops.offset(image, 1, 0),
    "moved by 3 of 96 pixels": lambda image: ImageChops.offset(image, 3, 0),
}


def packed(images: list[Image.Image], resolution_px: int, channels: int) -> np.ndarray:
    """Return images as they are packed, uint8 [N C H W]."""
    return np.stack([prepare(image, resolution_px, channels)[0] for image in images])


def correlations(images: np.ndarray, others: np.ndarray) -> np.ndarray:
    """Return [N M]: 1 - d^2 / 2 with the distances d of descriptors of length 1; what is flat has shorter ones."""
    a, b = (describe(pixels).descriptors / 1000 for pixels in (images, others))
    return 1 - ((a * a).sum(1)[:, None] + (b * b).sum(1) - 2 * a @ b.T) / 2


def show_digits() -> None:
    """Print how many pairs of digits correlate so much, and draw those that are joined."""
    kinds: tuple[PackageKind, ...] = ("digits", "mnist")
    print(f"| pairs that correlate by | {' | '.join(map(str, CORRELATIONS))} | joined |\n|---|{'---:|' * 6}")
    drawn: list[np.ndarray] = []
    for kind in kinds:
        raw = [Image.fromarray(image) for image in package_pixels(kind)]
        for size_px in SIZES_PX:
            images = packed(raw, size_px, 1)
            pairs = correlations(images, images)[np.triu_indices(len(images), 1)]
            group = groups(describe(images))
            joined = np.flatnonzero(group != np.arange(len(group)))
            cells = [f"{(pairs >= least).sum():,}" for least in CORRELATIONS]
            print(f"| {kind}, {size_px} px, {len(images):,} images | {' | '.join(cells)} | {len(joined)} |")
            if size_px == 32:
                drawn += [images[index] for pair in zip(group[joined], joined, strict=True) for index in pair]
    save_png(Path("pairs.png"), grid(np.stack(drawn), columns=2, scale=2))


def show_photographs() -> None:
    """Print what share of the copies of photographs is found, and how many others are taken for copies."""
    squares = [
        photo[top : top + 96, left : left + 96]
        for photo in load_sample_images().images
        for top in range(0, 427 - 96, 96)
        for left in range(0, 640 - 96, 96)
    ]
    photos = [Image.fromarray(square) for square in squares if square.std(axis=(0, 1)).max() > 20]
    print(f"\n| {len(photos)} photographs: share found | 32 px, gray | 32 px | 64 px |\n|---|---:|---:|---:|")
    for name, copy in COPIES.items():
        cells = []
        for size_px, channels in ((32, 1), (32, 3), (64, 3)):
            images = packed(photos, size_px, channels)
            near = correlations(images, packed([copy(photo) for photo in photos], size_px, channels)) >= 0.99
            wrong = int(near.sum() - near.diagonal().sum())
            cells.append(f"{near.diagonal().mean():.2f}" + (f", {wrong} wrong" if wrong else ""))
        print(f"| {name} | {' | '.join(cells)} |")


def show_speed(n: int) -> None:
    """Print how long `n` images take; a hundredth of them are copies."""
    images = np.random.default_rng(0).integers(0, 256, (n, 1, 8, 8), np.uint8).repeat(4, 2).repeat(4, 3)
    images[-n // 100 :] = images[: n // 100]
    began_s = time.perf_counter()
    group = groups(describe(images))
    took_s = time.perf_counter() - began_s
    peak_mb = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    print(f"{n:,} images: {took_s:.0f} s, {(group != np.arange(n)).sum()} copies, peak memory {peak_mb:.0f} MB")


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--images", type=int, help="measure the time that so many images take")
    chosen = parser.parse_args()
    if chosen.images:
        show_speed(chosen.images)
    else:
        show_digits()
        show_photographs()
