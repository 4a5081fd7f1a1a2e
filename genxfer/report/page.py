"""Put one evaluation on one HTML page: the numbers and pictures of a report, laid out for page.html beside this file.

The same report gives the same bytes. Knows nothing of the store, of MLflow or of Prefect, which all show the page.
"""

from collections.abc import Mapping
from itertools import groupby
from typing import Any

from genxfer.report.curves import Curves, Line, draw_curves
from genxfer.report.evaluation import EvaluationReport, LayerGroupRow, Number, Samples
from genxfer.report.html import Picture, bar, picture, render
from genxfer.report.verdict import judge, number

_COLOURS = {"source-only": "var(--source)", "from scratch": "var(--scratch)", "transferred": "var(--transferred)"}


def render_page(report: EvaluationReport) -> str:
    """Return the page of `report` as HTML."""
    values = {
        "report": report,
        "verdict": judge(report),
        "metrics": [name for name in report.transferred.metrics if name != "kid"],
        "scores": _scores(report),
        "picture_rows": _picture_rows(report),
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
    """Return one row of the table for each model; bars and whiskers are in percent of the widest."""
    models = _models(report)
    ends = [samples.metrics["kid"].value + (samples.metrics["kid"].standard_error or 0) for samples in models.values()]
    widest = max(ends)
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
    error = kid.standard_error or 0
    return bar(kid.value, kid.value - error, kid.value + error, widest)


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
