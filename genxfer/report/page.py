"""Put one evaluation on one HTML page: the numbers and pictures of a report, laid out for page.html beside this file.

The same report gives the same bytes. Knows nothing of the store, of MLflow or of Prefect, which all show the page.
"""

from collections.abc import Mapping
from itertools import groupby
from typing import Any

import numpy as np
from numpy.typing import NDArray

from genxfer.metrics import MEANINGS
from genxfer.report.curves import Curves, Line, draw_curves
from genxfer.report.evaluation import Copying, EvaluationReport, Film, LayerGroupRow, Number, Samples, Shares
from genxfer.report.html import Column, Picture, bar, column, picture, render
from genxfer.report.verdict import interval, judge, number, percent, say_copying

_COLOURS = {"source-only": "var(--source)", "from scratch": "var(--scratch)", "transferred": "var(--transferred)"}
_TRAINED_ON_TARGET = {"finetune": "transferred", "baseline": "from scratch"}  # stage -> what its model is called
_WRITTEN = {"kid": "KID", "fid": "FID"}
HALF_PX, _FRAME_GAP_PX = 526, 8  # of style.css


def render_page(report: EvaluationReport) -> str:
    """Return the page of `report` as HTML."""
    values = {
        "report": report,
        "verdict": judge(report),
        "scores": _scores(report),
        "numbers": _numbers(report),
        "picture_rows": _picture_rows(report),
        "films": (films := [_film(stage, film) for stage, film in report.films.items() if len(film.kimg)]),
        "short_films": all(sum(c.width_px + _FRAME_GAP_PX for c in film["columns"]) <= HALF_PX for film in films),
        "likeness": {name: _side_by_side(images) for name, images in _likeness(report).items()},
        "copying": _copying(report.copying),
        "interpolations": _interpolations(report.interpolations),
        "measured": _measured(report),
        "curve_panels": _curve_panels(report.curves),
        "nets": {net: list(rows) for net, rows in groupby(report.layer_groups, key=lambda row: row.net)},
        "totals": _totals(report.layer_groups),
    }
    return render("page.html", values)


def _models(report: EvaluationReport) -> dict[str, Samples]:
    """Return the samples of each model on the page, in the order of every table and row of pictures."""
    models = {"source-only": report.source_only, "from scratch": report.from_scratch, "transferred": report.transferred}
    return {name: samples for name, samples in models.items() if samples is not None}


def _scores(report: EvaluationReport) -> list[dict[str, Any]]:
    """Return one row of the chart for each model; bars and whiskers are in percent of the widest."""
    kids = {name: samples.metrics["kid"] for name, samples in _models(report).items()}
    widest = max(_ends(kid)[1] for kid in kids.values())
    return [
        {
            "name": name,
            "colour": _COLOURS[name],
            "bar": bar(kid.value, *_ends(kid), widest),
            "kid": number(Number(kid.value)),
            "interval": interval(kid),
        }
        for name, kid in kids.items()
    ]


def _ends(kid: Number) -> tuple[float, float]:
    error = kid.standard_error or 0
    return kid.interval or (kid.value - error, kid.value + error)


def _numbers(report: EvaluationReport) -> list[dict[str, Any]]:
    """Return one row of the table for each metric: the value of every model and of real images, and how to read it."""
    rows = []
    for metric in report.transferred.metrics:
        found = {name: samples.metrics.get(metric) for name, samples in _models(report).items()}
        of_real = [value for name, value in report.yardsticks.items() if name.startswith(f"{metric}_")]
        rows.append(
            {
                "metric": _WRITTEN.get(metric, metric),
                "values": {
                    name: (number(Number(value.value), _digits(metric)), interval(value)) if value else None
                    for name, value in found.items()
                },
                "of_real": number(Number(of_real[0]), _digits(metric)) if of_real else None,
                "meaning": MEANINGS.get(metric, ""),
            }
        )
    return rows


def _picture_rows(report: EvaluationReport) -> list[list[Picture]]:
    """Return the real images, then the samples, each a row of pictures of one scale."""
    real = [
        ("Target, training", f"{report.target.n:,} images of {report.target.name}", report.target.shown),
        ("Target, test", f"{report.test.n:,} images, never trained on", report.test.shown),
    ]
    if source := report.source:
        real.insert(0, ("Source", f"{source.n:,} images of {source.name}", source.shown))
    notes = {
        "source-only": "before fine-tuning",
        "from scratch": "same data and budget, no source",
        "transferred": "source, then fine-tuned",
    }
    return [
        [picture(title, note, images) for title, note, images in real],
        [
            picture(f"Samples, {name}", notes[name], samples.shown, _COLOURS[name])
            for name, samples in _models(report).items()
        ],
    ]


def _digits(metric: str) -> int:
    """Return how many digits after the point a metric deserves at most; KIDs of good models are small."""
    return 4 if metric == "kid" else 3


def _film(stage: str, film: Film) -> dict[str, Any]:
    """Return the frames of one training, side by side in time; the one that is published is marked."""
    model = _TRAINED_ON_TARGET[stage]
    frames = [
        column(frame, f"{kimg:g} kimg" if kimg else "start", marked=kimg == film.published_kimg)
        for frame, kimg in zip(film.frames, film.kimg, strict=True)
    ]
    begin = "begins as the source model" if stage == "finetune" else "begins with random weights"
    return {"model": model, "colour": _COLOURS[model], "note": begin, "columns": frames}


def _likeness(report: EvaluationReport) -> dict[str, NDArray[np.uint8]]:
    if report.likeness is None:
        return {}
    return {"Most like the target": report.likeness.most, "Least like the target": report.likeness.least}


def _side_by_side(pairs: NDArray[np.uint8]) -> list[Column]:
    """Return the pairs [P 2 C H W], each one above the other."""
    return [column(pair) for pair in pairs]


def _copying(copying: Copying | None) -> dict[str, Any]:
    """Return the check for copies: its words, bars of the shares with what is allowed, and the closest pairs."""
    if copying is None:
        return {"words": say_copying(copying), "charts": (), "pairs": ()}
    charts = [
        {"title": "Copies, or nearly so", "bars": _bars(copying.copies), "allowed": percent(copying.copies.allowed)},
        {"title": "Next to a training image", "bars": _bars(copying.near), "allowed": percent(copying.near.allowed)},
    ]
    return {"words": say_copying(copying), "charts": charts, "pairs": _side_by_side(copying.pairs)}


def _bars(shares: Shares) -> list[dict[str, Any]]:
    rows = (
        ("samples", shares.samples, "var(--transferred)"),
        ("unseen real images", shares.real, "var(--source)"),
    )
    widest = max(shares.samples, shares.real, shares.allowed)
    return [
        {"name": name, "colour": colour, "share": percent(share), **bar(share, share, shares.allowed, widest)}
        for name, share, colour in rows
    ]


def _interpolations(images: NDArray[np.uint8] | None) -> list[Column]:
    """Return images [rows steps C H W] as columns, a step each."""
    return [] if images is None else [column(step) for step in images.swapaxes(0, 1)]


def _measured(report: EvaluationReport) -> dict[str, str]:
    """Return what the numbers depend on, by name."""
    measured = report.measured
    return {
        "Samples per model": f"{measured.n_samples:,}",
        "Test images": f"{measured.n_reference:,}",
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
    moved = sum(row.moving for row in rows)
    return {"moved": moved, "fixed": sum(row.parameters for row in rows) - moved}
