"""One raw image to one packed square, uint8 [C H W]: the only place that knows about pixel formats.

Between `sources.py`, which reads, and `pack.py`, which stores. Knows nothing of files or of other images.
"""

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageOps

from genxfer.data.doctor import Facts
from genxfer.data.sources import UndecodableError


def prepare(image: Image.Image, resolution_px: int, channels: int) -> tuple[NDArray[np.uint8], Facts]:
    """Return `image` over white, its central square resized with antialiasing: uint8 [C H W], and its facts.

    Raises UndecodableError when the pixels have no known range.
    """
    width_px, height_px = image.info.get("stored_size", image.size)
    opaque = eight_bit(image)
    square = ImageOps.fit(opaque, (resolution_px, resolution_px), Image.Resampling.LANCZOS)
    pixels = np.asarray(square)
    # Chroma after the resize: a scan saved as RGB with a little noise is no colour image.
    is_colour = pixels.ndim == 3 and float(np.ptp(pixels, axis=2).mean()) > 4
    converted = np.asarray(square.convert("L" if channels == 1 else "RGB"))
    chw = converted[None] if channels == 1 else converted.transpose(2, 0, 1)
    return np.ascontiguousarray(chw), Facts(width_px, height_px, is_colour)


def eight_bit(image: Image.Image) -> Image.Image:
    """Return `image` as L or RGB, 8 bits, opaque."""
    if image.mode.startswith("I"):  # 16-bit gray; Pillow's own conversions would clip at 255
        wide = np.asarray(image).astype(np.int64)
        gray = (wide.clip(0, 65535) * 255 + 32767) // 65535
        gray[wide == image.info.get("transparency", -1)] = 255  # the one value that a PNG calls transparent
        return Image.fromarray(gray.astype(np.uint8))
    if image.has_transparency_data:
        layer = image.convert("RGBA")
        white = Image.new("RGBA", layer.size, "white")
        return Image.alpha_composite(white, layer).convert("RGB")
    if image.mode == "F":
        raise UndecodableError("its floating-point pixels have no known range")
    return image if image.mode in ("L", "RGB") else image.convert("L" if image.mode == "1" else "RGB")
