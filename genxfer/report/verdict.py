"""Say in plain words what the numbers of an evaluation allow to say, and no more.

Two KIDs count as different when they lie more than two of their combined standard errors apart. Knows nothing of HTML.
"""

import math
from dataclasses import dataclass

from genxfer.report.evaluation import EvaluationReport, Number, Samples

SIGNIFICANT_STANDARD_ERRORS = 2.0


@dataclass(frozen=True)
class Verdict:
    """One headline, the sentence with its numbers, and what must be kept in mind when reading them."""

    headline: str
    evidence: str
    caveats: tuple[str, ...]


def judge(report: EvaluationReport) -> Verdict:
    """Return what `report` allows to say about the transfer."""
    if report.from_scratch is None:
        headline, evidence = _without_a_baseline(report)
    else:
        headline, evidence = _against_the_baseline(report, report.from_scratch)
    return Verdict(headline, evidence, tuple(_caveats(report)))


def standard_errors_apart(a: Number, b: Number) -> float:
    """Return a - b in units of their combined standard error, both taken as independent; infinite when that is 0."""
    error = math.hypot(a.standard_error or 0.0, b.standard_error or 0.0)
    if error == 0:
        return math.copysign(math.inf, a.value - b.value) if a.value != b.value else 0.0
    return (a.value - b.value) / error


def _against_the_baseline(report: EvaluationReport, from_scratch: Samples) -> tuple[str, str]:
    scratch, transferred = from_scratch.metrics["kid"], report.transferred.metrics["kid"]
    apart = standard_errors_apart(scratch, transferred)
    evidence = (
        f"Against {report.test.n:,} test images, the transferred model scores a KID of {number(transferred)}; "
        f"the same model, data, seed and budget from scratch scores {number(scratch)}. {_how_far(apart)}"
    )
    if abs(apart) <= SIGNIFICANT_STANDARD_ERRORS:
        return "No clear difference between transfer and training from scratch.", evidence
    if apart < 0:
        return "Transfer did not help: training from scratch came closer.", evidence
    if report.transfer_gain is None:
        return "Transfer helped: the transferred samples can hardly be told from test images.", evidence
    return f"Transfer helped: KID is {report.transfer_gain:.1f} times lower than from scratch.", evidence


def _without_a_baseline(report: EvaluationReport) -> tuple[str, str]:
    source, transferred = report.source_only.metrics["kid"], report.transferred.metrics["kid"]
    apart = standard_errors_apart(source, transferred)
    evidence = (
        f"Against {report.test.n:,} test images, the transferred model scores a KID of {number(transferred)}; "
        f"the source model, not fine-tuned, scores {number(source)}. {_how_far(apart)} Whether training from "
        "scratch would have done as well is not known: the baseline was left out (baseline.enabled: false)."
    )
    if apart > SIGNIFICANT_STANDARD_ERRORS:
        return "Fine-tuning moved the model towards the target.", evidence
    return "Fine-tuning did not move the model measurably towards the target.", evidence


def _how_far(apart: float) -> str:
    if abs(apart) <= SIGNIFICANT_STANDARD_ERRORS:
        return f"They lie {abs(apart):.1f} standard errors apart: chance alone may explain that."
    size = f"{abs(apart):.0f}" if abs(apart) < 1000 else "over 1,000"
    return f"They lie {size} standard errors apart: more than the draw of the images explains."


def _caveats(report: EvaluationReport) -> list[str]:
    measured = report.measured
    caveats = [
        "The standard errors cover which images were drawn, not how another training seed would have turned out: "
        "each model here was trained once.",
    ]
    if "memorization" not in report.transferred.metrics:
        caveats.append(
            f"A low KID does not rule out copying. Nothing here measures whether samples repeat the "
            f"{report.target.n:,} training images: compare the two grids by eye before you rely on the model."
        )
    smallest = min(measured.n_samples, measured.n_reference)
    if "fid" in report.transferred.metrics and smallest <= measured.feature_size:
        caveats.append(
            f"FID is unreliable here: it fits a covariance of {measured.feature_size:,} features to {smallest:,} "
            "images, which biases it upwards. Go by KID, which is unbiased at any number of images."
        )
    return caveats


def number(measured: Number) -> str:
    """Return `measured` for people: four digits after the point below 1, fewer above, with its standard error."""
    digits = 4 if abs(measured.value) < 1 else 3 if abs(measured.value) < 10 else 1
    error = "" if measured.standard_error is None else f" ± {measured.standard_error:.{digits}f}"
    text = f"{measured.value:.{digits}f}{error}"
    return text.replace("-", "\N{MINUS SIGN}").replace(" ", "\N{NO-BREAK SPACE}")
