"""Save pictures one after the other as an animated GIF that repeats for ever.

Takes uint8 arrays; the same pictures give the same bytes. Knows nothing of where they come from.
"""

import io
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from genxfer.artifacts.atomic import write_atomic

COLOURS = 256  # all that a GIF has
PALETTE_PICTURES = 16  # from which these are chosen


def encode_gif(pictures: Sequence[NDArray[np.uint8]], durations_ms: Sequence[int]) -> bytes:
    """Return pictures [H W C], C of 1 (gray) or 3 (RGB), as a GIF; each is shown for its duration.

    All share one palette: with one for each picture, colours that are the same would flicker.
    """
    from PIL import Image as Pillow

    images = [Pillow.fromarray(picture[..., 0] if picture.shape[-1] == 1 else picture) for picture in pictures]
    if images[0].mode == "RGB":
        some = pictures[:: max(1, len(pictures) // PALETTE_PICTURES)]
        palette = Pillow.fromarray(np.concatenate(some)).quantize(COLOURS, dither=Pillow.Dither.NONE)
        images = [image.quantize(palette=palette, dither=Pillow.Dither.NONE) for image in images]
    buffer = io.BytesIO()
    first, *others = images
    first.save(buffer, "GIF", save_all=True, append_images=others, duration=list(durations_ms), loop=0)
    return buffer.getvalue()


def save_gif(path: Path, pictures: Sequence[NDArray[np.uint8]], durations_ms: Sequence[int]) -> None:
    """Write `pictures` [H W C] to `path` as an animated GIF, whole or not at all; raises OSError."""
    write_atomic(path, encode_gif(pictures, durations_ms))
