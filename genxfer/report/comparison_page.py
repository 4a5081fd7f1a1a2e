"""Put a comparison of methods on one HTML page, and its ranking into one figure for places that take no HTML.

Knows nothing of how the trials were run.
"""

import io
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from genxfer.report.comparison import Contender, best_trial, caveat, headline, say_failed, say_order
from genxfer.report.html import bar, picture, render

_WIDTH_INCH, _ROW_INCH = 7.0, 0.42
_DIGITS = 12  # of a digest that is shown
# What all numbers depend on beside the models, and of how many images they are; names of metrics.json.
MEASURED = (
    "extractor",
    "extractor_digest",
    "n_samples",
    "seed",
    "n_reference",
    "reference_digest",
    "n_validation",
)
_WINNER, _OTHER, _INK = "#0d7d72", "#77808f", "#1c1b19"  # of style.css, by daylight


def render_comparison(ranking: Sequence[Contender], facts: Mapping[str, Any], target: NDArray[np.uint8]) -> str:
    """Return the page of `ranking`; `facts` names source, target, family, n_train, `measured` and `lost`.

    `measured` is what all numbers depend on, as metrics.json has it: `MEASURED` names it; `lost` are methods of which
    every seed failed. `target` [N C H W] are training images to show beside the samples.
    """
    widest = max(contender.interval[1] for contender in ranking)
    measured = facts["measured"]
    values = {
        **facts,
        "headline": headline(ranking),
        "caveat": caveat(ranking),
        "order": say_order(ranking, measured["n_validation"]),
        "failed": say_failed(ranking, facts["lost"]),
        "provenance": say_measured(measured),
        "by_validation": ranking[0].validation_kid is not None,
        "seeds": sorted({trial.seed for contender in ranking for trial in contender.trials}),
        "contenders": [_row(contender, widest) for contender in ranking],
        "pictures": [
            picture("Target, training", f"{facts['n_train']:,} images", target),
            *(_samples(contender) for contender in ranking),
        ],
    }
    return render("comparison.html", values)


def draw_ranking(ranking: Sequence[Contender]) -> bytes:
    """Return the ranking as a PNG: for each method, the best on top, a bar of its test KID with its 95 % interval.

    Where there is a validation KID, which made the order, it is a mark on the bar.
    """
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(_WIDTH_INCH, 1.1 + _ROW_INCH * len(ranking)), dpi=144, layout="constrained")
    FigureCanvasAgg(figure)
    axes = figure.add_subplot()
    places = range(len(ranking), 0, -1)
    kids = [contender.kid for contender in ranking]
    errors = [high - kid for kid, (_, high) in zip(kids, (c.interval for c in ranking), strict=True)]
    colours = [_WINNER, *[_OTHER] * (len(ranking) - 1)]
    axes.barh(places, kids, height=0.55, color=colours, xerr=errors, error_kw={"ecolor": _INK, "capsize": 3})
    axes.set_yticks(places, [contender.name for contender in ranking])
    label = "test KID with 95 % interval, lower is better"
    validation = [contender.validation_kid for contender in ranking if contender.validation_kid is not None]
    if validation:
        axes.scatter(validation, places, marker="D", s=26, facecolors="white", edgecolors=_INK, zorder=3)
        label += "\n\N{WHITE DIAMOND} validation KID, which makes the order"
    axes.set_xlim(left=0)
    axes.set_xlabel(label)
    axes.spines[["top", "right", "left"]].set_visible(False)
    axes.tick_params(axis="y", length=0)
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png", metadata={"Software": None})
    return buffer.getvalue()


def table(ranking: Sequence[Contender]) -> list[dict[str, str]]:
    """Return the ranking as rows of text, the best first."""
    return [
        {
            "method": contender.method,
            "seeds": contender.seeds,
            "validation KID": _validation(contender),
            "test KID": f"{contender.kid:z.4f}",
            "95 % interval": "{:z.4f} to {:z.4f}".format(*contender.interval),
            "gain": _gain(contender),
            "copies": _copies(contender),
            "seconds": f"{contender.seconds:.0f}",
        }
        for contender in ranking
    ]


def say_measured(measured: Mapping[str, Any]) -> str:
    """Return in a sentence what all numbers depend on beside the models."""
    return (
        f"Measured with {measured['extractor']} (weights {measured['extractor_digest'][:_DIGITS]}) on "
        f"{measured['n_samples']:,} samples of each model from seed {measured['seed']}, against "
        f"{measured['n_reference']:,} test images (digest {measured['reference_digest'][:_DIGITS]})."
    )


def _row(contender: Contender, widest: float) -> dict[str, Any]:
    trial = best_trial([contender])
    return {
        "method": contender.method,
        "seeds": contender.seeds,
        "validation_kid": _validation(contender),
        "bar": bar(contender.kid, *contender.interval, widest),
        "kid": f"{contender.kid:z.4f}",
        "gain": _gain(contender),
        "copies": _copies(contender),
        "moves": f"{trial.moved_parameters / max(trial.moved_parameters + trial.fixed_parameters, 1):.1%}",
        "seconds": f"{contender.seconds:.0f} s",
    }


def _samples(contender: Contender) -> Any:
    trial = best_trial([contender])
    return picture(f"Samples, {contender.method}", f"test KID {trial.kid:z.4f}, seed {trial.seed}", trial.samples)


def _validation(contender: Contender) -> str:
    return "none" if contender.validation_kid is None else f"{contender.validation_kid:z.4f}"


def _gain(contender: Contender) -> str:
    return "none" if contender.gain is None else f"{contender.gain:z.2f}"


def _copies(contender: Contender) -> str:
    return {None: "not measured", True: "yes", False: "no"}[contender.copies]
