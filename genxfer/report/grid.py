"""Lay images out as a grid, and encode and save pictures as PNG.

Takes and gives uint8 arrays; the same images give the same bytes. Knows nothing of where images come from.
"""

import io
import math
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from genxfer.artifacts.atomic import write_atomic

Image = NDArray[np.uint8]

SHOWN_PX = 96  # the side of an image in a grid, at least about


def enlarged(images: Image) -> int:
    """Return how often each pixel of `images` [N C H W] is repeated to be seen well: small images more often."""
    return max(1, SHOWN_PX // images.shape[2])


def grid(images: Image, columns: int, scale: int = 1, gap: int = 2, background: int | None = 255) -> Image:
    """Return `images` [N C H W] row by row as one picture [H W C], each pixel repeated `scale` times, C of 1 or 3.

    `gap` is in picture pixels. A `background` of None leaves gaps and empty places transparent: the picture then has
    an alpha channel more. Raises ValueError for no images or an array of another kind.
    """
    if images.dtype != np.uint8 or images.ndim != 4 or images.shape[1] not in (1, 3) or not len(images):
        raise ValueError(f"A grid wants uint8 images [N C H W], C of 1 or 3, not {images.dtype} {list(images.shape)}.")
    n, channels, height, width = images.shape
    columns = min(columns, n)
    rows = math.ceil(n / columns)
    height, width = height * scale, width * scale

    shape = (rows * (height + gap) - gap, columns * (width + gap) - gap, channels + (background is None))
    picture = np.full(shape, background or 0, dtype=np.uint8)
    for place, image in enumerate(images.transpose(0, 2, 3, 1).repeat(scale, axis=1).repeat(scale, axis=2)):
        top, left = place // columns * (height + gap), place % columns * (width + gap)
        picture[top : top + height, left : left + width, :channels] = image
        picture[top : top + height, left : left + width, channels:] = 255
    return picture


def encode_png(picture: Image) -> bytes:
    """Return `picture` [H W C] as PNG, C of 1 (gray), 2 (gray and alpha), 3 (RGB) or 4 (RGB and alpha)."""
    from PIL import Image as Pillow

    buffer = io.BytesIO()
    Pillow.fromarray(picture[..., 0] if picture.shape[-1] == 1 else picture).save(buffer, "PNG", optimize=True)
    return buffer.getvalue()


def save_png(path: Path, picture: Image) -> None:
    """Write `picture` [H W C] to `path` as PNG, whole or not at all; raises OSError."""
    write_atomic(path, encode_png(picture))
