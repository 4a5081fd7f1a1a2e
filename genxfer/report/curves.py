"""Draw training curves as small SVG figures, one per loss term, that take the colours and the font of the page.

Reads the curves.csv that training leaves behind: `images_seen` and one column per term. The only place that imports
matplotlib, and only when something is drawn: the import takes seconds. Knows nothing of what the terms mean.
"""

import csv
import io
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

_WIDTH_INCH, _HEIGHT_INCH = 3.4, 1.9
# Stand-ins that matplotlib writes into the SVG, and what the page's style sheet puts in their place.
_STYLE_COLOURS = {"#010203": "var(--ink-soft)", "#010204": "var(--line)"}


@dataclass(frozen=True)
class Curves:
    """The loss terms of one training stage over `images_seen`; a value is None where a term was not taken."""

    images_seen: tuple[int, ...]
    terms: Mapping[str, tuple[float | None, ...]]


@dataclass(frozen=True)
class Line:
    """The curves of one stage and the style-sheet colour, such as "var(--transferred)", that stands for it."""

    curves: Curves
    colour: str


def read_curves(path: Path) -> Curves:
    """Return the curves in the CSV file `path`; raises OSError, and ValueError on anything but numbers."""
    with path.open(newline="") as file:
        rows = list(csv.DictReader(file))
    names = [name for name in (rows[0] if rows else {}) if name != "images_seen"]
    terms = {name: tuple(float(row[name]) if row[name] else None for row in rows) for name in names}
    return Curves(tuple(int(float(row["images_seen"])) for row in rows), terms)


def draw_curves(lines: Mapping[str, Line]) -> dict[str, str]:
    """Return, for each loss term of `lines` (stage -> its line), one SVG in which every stage that has it is drawn."""
    terms = dict.fromkeys(term for line in lines.values() for term in line.curves.terms)
    return {term: _draw_term(term, lines) for term in terms}


def _draw_term(term: str, lines: Mapping[str, Line]) -> str:
    """Return one SVG of `term`; equal curves give equal text."""
    from matplotlib import rc_context
    from matplotlib.backends.backend_svg import FigureCanvasSVG
    from matplotlib.figure import Figure
    from matplotlib.ticker import MaxNLocator

    soft, faint = _STYLE_COLOURS
    stand_ins = {f"#0102{place + 16:02x}": line.colour for place, line in enumerate(lines.values())}
    # Text stays text, in the page's font; ids come from the salt, so that they neither change nor clash on one page.
    with rc_context({"svg.fonttype": "none", "svg.hashsalt": f"{term}/{'/'.join(lines)}", "font.size": 9}):
        figure = Figure(figsize=(_WIDTH_INCH, _HEIGHT_INCH))
        FigureCanvasSVG(figure)
        axes = figure.add_axes((0.15, 0.2, 0.82, 0.74))
        for stand_in, line in zip(stand_ins, lines.values(), strict=True):
            taken = zip(line.curves.images_seen, line.curves.terms.get(term, ()), strict=False)
            points = [(seen / 1000, value) for seen, value in taken if value is not None]
            marker = "o" if len(points) == 1 else None  # one point has no line
            kimg, values = [seen for seen, _ in points], [value for _, value in points]
            axes.plot(kimg, values, color=stand_in, linewidth=1.5, marker=marker, markersize=4)
        axes.set_xlabel("kimg", color=soft, loc="right", labelpad=1)
        axes.tick_params(colors=soft, length=0, pad=4)
        axes.xaxis.set_major_locator(MaxNLocator(5, steps=[1, 2, 2.5, 5, 10]))
        axes.yaxis.set_major_locator(MaxNLocator(4, steps=[1, 2, 2.5, 5, 10]))
        axes.grid(axis="y", color=faint, linewidth=0.8)
        axes.spines[:].set_visible(False)
        buffer = io.StringIO()
        figure.savefig(buffer, format="svg", transparent=True, metadata={"Date": None, "Creator": None})
    return _for_the_page(buffer.getvalue(), {**_STYLE_COLOURS, **stand_ins})


def _for_the_page(svg: str, colours: Mapping[str, str]) -> str:
    """Return matplotlib's `svg` in the page's font and colours, without a fixed size or ids that would clash."""
    svg = svg[svg.index("<svg") :]
    svg = re.sub(r"<metadata>.*?</metadata>|<style.*?</style>", "", svg, flags=re.DOTALL)
    svg = re.sub(r'(<svg[^>]*?) width="[^"]*"([^>]*?) height="[^"]*"', r"\1\2", svg, count=1)
    svg = re.sub(r'<g id="[^"]*"', "<g", svg)
    svg = re.sub(r"font-family: [^;]*; ", "", re.sub(r"font: ([0-9.]+px) ", r"font-size: \1; font-family: ", svg))
    for stand_in, colour in colours.items():
        svg = svg.replace(stand_in, colour)
    return svg
