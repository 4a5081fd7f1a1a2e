"""Put one evaluation on one self-contained HTML page: no script, no file beside it, nothing fetched, no date.

The text and the style are in page.html beside this file; here the pictures are encoded and the numbers laid out for it.
The same report gives the same bytes. Knows nothing of the store, of MLflow or of Prefect, which all show the page.
"""

import base64
import re
from collections.abc import Mapping
from dataclasses import dataclass
from itertools import groupby
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from genxfer.report.curves import Curves, Line, draw_curves
from genxfer.report.evaluation import EvaluationReport, LayerGroupRow, Number, Samples
from genxfer.report.grid import encode_png, grid
from genxfer.report.verdict import judge, number

TEMPLATE = Path(__file__).with_name("page.html")

# A grid is at most this wide on the page, so that three stand side by side and one fits a phone.
_GRID_WIDTH_PX = 336
_GRID_ROWS = 6
_GAP_PX = 2
_COLOURS = {"source-only": "var(--source)", "from scratch": "var(--scratch)", "transferred": "var(--transferred)"}


@dataclass(frozen=True)
class _Picture:
    """One grid on the page, with the size it is shown at: a whole multiple of its own, so every pixel is a square."""

    title: str
    note: str
    png: str
    width_px: int
    height_px: int
    colour: str = ""


def render_page(report: EvaluationReport) -> str:
    """Return the page of `report` as HTML."""
    from jinja2 import Environment, StrictUndefined

    environment = Environment(autoescape=True, undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True)
    environment.filters["number"] = lambda value: f"{value:,}"
    environment.tests["digest"] = lambda value: re.fullmatch(r"[0-9a-f]{16,}(\.dir)?", value) is not None
    template = environment.from_string(TEMPLATE.read_text(encoding="utf-8"))
    return template.render(
        report=report,
        verdict=judge(report),
        metrics=[name for name in report.transferred.metrics if name != "kid"],
        scores=_scores(report),
        picture_rows=_picture_rows(report),
        measured=_measured(report),
        curve_panels=_curve_panels(report.curves),
        nets={net: list(rows) for net, rows in groupby(report.layer_groups, key=lambda row: row.net)},
        totals=_totals(report.layer_groups),
    )


def _models(report: EvaluationReport) -> dict[str, Samples]:
    """Return the samples of each model on the page, in the order of every table and row of pictures."""
    models = {"source-only": report.source_only, "from scratch": report.from_scratch, "transferred": report.transferred}
    return {name: samples for name, samples in models.items() if samples is not None}


def _scores(report: EvaluationReport) -> list[dict[str, Any]]:
    """Return one row of the table for each model; bars and whiskers are in percent of the widest."""
    models = _models(report)
    ends = [samples.metrics["kid"].value + (samples.metrics["kid"].standard_error or 0) for samples in models.values()]
    widest = max(*ends, 1e-12)
    return [
        {
            "name": name,
            "colour": _COLOURS[name],
            "bar": _bar(samples.metrics["kid"], widest),
            **{metric: number(value) for metric, value in samples.metrics.items()},
        }
        for name, samples in models.items()
    ]


def _bar(kid: Number, widest: float) -> dict[str, float]:
    """Return in percent where the bar of `kid` and its whisker end; KID may fall below 0, a bar does not."""
    error = kid.standard_error or 0
    ends = {"value": kid.value, "low": kid.value - error, "high": kid.value + error}
    return {name: round(100 * min(max(end / widest, 0), 1), 2) for name, end in ends.items()}


def _picture_rows(report: EvaluationReport) -> list[list[_Picture]]:
    """Return the real images, then the samples, each a row of pictures of one scale."""
    real = [
        ("Target, training", f"{report.target.n:,} images of {report.target.name}", report.target.shown),
        ("Target, held out", f"{report.held_out.n:,} images, never trained on", report.held_out.shown),
    ]
    if source := report.source:
        real.insert(0, ("Source", f"{source.n:,} images of {source.name}", source.shown))
    notes = {
        "source-only": "before fine-tuning",
        "from scratch": "same data and budget, no source",
        "transferred": "source, then fine-tuned",
    }
    return [
        [_picture(title, note, images) for title, note, images in real],
        [
            _picture(f"Samples, {name}", notes[name], samples.shown, _COLOURS[name])
            for name, samples in _models(report).items()
        ],
    ]


def _picture(title: str, note: str, images: NDArray[np.uint8], colour: str = "") -> _Picture:
    """Return as many of `images` [N C H W] as fit, at their own size in the PNG; the page enlarges them."""
    resolution_px = images.shape[-1]
    scale = max(1, 64 // resolution_px)
    columns = max(2, (_GRID_WIDTH_PX + _GAP_PX * scale) // ((resolution_px + _GAP_PX) * scale))
    picture = grid(images[: columns * _GRID_ROWS], columns=columns, gap=_GAP_PX, background=None)
    png = base64.b64encode(encode_png(picture)).decode()
    return _Picture(title, note, png, picture.shape[1] * scale, picture.shape[0] * scale, colour)


def _measured(report: EvaluationReport) -> dict[str, str]:
    """Return what the numbers depend on, by name."""
    measured = report.measured
    return {
        "Samples per model": f"{measured.n_samples:,}",
        "Held-out images": f"{measured.n_reference:,}",
        "Feature extractor": f"{measured.extractor}, {measured.feature_size:,} features",
        "Seed of the samples": str(measured.seed),
        "Extractor weights": measured.weights_digest,
        "Reference images": measured.reference_digest,
    }


def _curve_panels(curves: Mapping[str, Curves]) -> list[dict[str, Any]]:
    """Return one panel for pretraining, and one where fine-tuning and the baseline share each figure."""
    wanted = {
        "Pretraining on the source": {"pretrain": "source-only"},
        "Training on the target": {"baseline": "from scratch", "finetune": "transferred"},
    }
    panels = []
    for title, stages in wanted.items():
        drawn = {model: Line(curves[stage], _COLOURS[model]) for stage, model in stages.items() if stage in curves}
        if drawn:
            legend = {model: line.colour for model, line in drawn.items()}
            panels.append({"title": title, "legend": legend, "figures": draw_curves(drawn)})
    return panels


def _totals(rows: tuple[LayerGroupRow, ...]) -> dict[str, int]:
    """Return how many parameters moved and how many stayed fixed."""
    moved = sum(row.parameters for row in rows if row.moves)
    return {"moved": moved, "fixed": sum(row.parameters for row in rows) - moved}
