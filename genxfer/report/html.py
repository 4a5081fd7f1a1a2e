"""What every page is made with: one template engine, one style, pictures as data in the page, bars in percent.

A page is self-contained: no script, no file beside it, nothing fetched, no date; the same report gives the same bytes.
Knows nothing of what is shown.
"""

import base64
import re
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from genxfer.report.grid import encode_png, grid

if TYPE_CHECKING:
    from jinja2 import Environment

# A grid is at most this wide on a page, so that three stand side by side and one fits a phone.
GRID_WIDTH_PX = 336
GRID_ROWS = 6
GAP_PX = 2
COLUMN_HEIGHT_PX = 400  # of images one above the other; fewer are shown where they are large


@dataclass(frozen=True)
class Picture:
    """One grid on a page, with the size it is shown at: a whole multiple of its own, so every pixel is a square."""

    title: str
    note: str
    png: str
    width_px: int
    height_px: int
    colour: str = ""


@dataclass(frozen=True)
class Column:
    """Images one above the other; columns stand side by side and wrap where the page is narrow."""

    png: str
    width_px: int
    height_px: int
    caption: str = ""
    marked: bool = False


def render(template: str, values: Mapping[str, Any]) -> str:
    """Return the template of this name, beside this file, filled in with `values`."""
    return _environment().get_template(template).render(values)


def picture(title: str, note: str, images: NDArray[np.uint8], colour: str = "") -> Picture:
    """Return as many of `images` [N C H W] as fit, at their own size in the PNG; the page enlarges them."""
    resolution_px = images.shape[-1]
    scale = _scale(resolution_px)
    columns = max(2, (GRID_WIDTH_PX + GAP_PX * scale) // ((resolution_px + GAP_PX) * scale))
    laid_out = grid(images[: columns * GRID_ROWS], columns=columns, gap=GAP_PX, background=None)
    return Picture(title, note, _png(laid_out), laid_out.shape[1] * scale, laid_out.shape[0] * scale, colour)


def column(images: NDArray[np.uint8], caption: str = "", *, marked: bool = False) -> Column:
    """Return `images` [N C H W] one above the other, as many as fit COLUMN_HEIGHT_PX but two at least."""
    scale = _scale(images.shape[-1])
    gap = max(1, GAP_PX // scale)  # in the images' own pixels
    rows = max(2, (COLUMN_HEIGHT_PX + gap * scale) // ((images.shape[-1] + gap) * scale))
    laid_out = grid(images[:rows], columns=1, gap=gap, background=None)
    return Column(_png(laid_out), laid_out.shape[1] * scale, laid_out.shape[0] * scale, caption, marked)


def _scale(resolution_px: int) -> int:
    """Return how many times an image is enlarged: to 64 pixels, by a whole number."""
    return max(1, 64 // resolution_px)


def _png(laid_out: NDArray[np.uint8]) -> str:
    return base64.b64encode(encode_png(laid_out)).decode()


def bar(value: float, low: float, high: float, widest: float) -> dict[str, float]:
    """Return in percent of `widest` where a bar and its whisker end; KID may fall below 0, a bar does not."""
    ends = {"value": value, "low": low, "high": high}
    return {name: round(100 * min(max(end / max(widest, 1e-12), 0), 1), 2) for name, end in ends.items()}


@cache
def _environment() -> "Environment":
    from jinja2 import Environment, FileSystemLoader, StrictUndefined

    environment = Environment(
        loader=FileSystemLoader(Path(__file__).parent),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters["number"] = lambda value: f"{value:,}"
    environment.tests["digest"] = lambda value: re.fullmatch(r"[0-9a-f]{16,}(\.dir)?", value) is not None
    return environment
