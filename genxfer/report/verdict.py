"""Say in plain words what the numbers of an evaluation allow to say, and no more.

Transfer and training from scratch count as different when the 95 % interval of their gain leaves out 1; where there is
no interval, when their KIDs lie more than two of their combined standard errors apart. A gain is no help where the
source model, not fine-tuned, is better by so much. Knows nothing of HTML.
"""

from dataclasses import dataclass

from genxfer.metrics.caution import (
    FEW_TEST_IMAGES,
    MADE_WORSE,
    SIGNIFICANT_STANDARD_ERRORS,
    rules_out_little,
    say_variety,
    standard_errors_apart,
)
from genxfer.report.evaluation import Copying, EvaluationReport, Number, Published, Samples


@dataclass(frozen=True)
class Verdict:
    """One headline, a paragraph of sentences with its numbers, and what must be kept in mind when reading them."""

    headline: str
    evidence: str
    caveats: tuple[str, ...]


def judge(report: EvaluationReport) -> Verdict:
    """Return what `report` allows to say about the transfer."""
    if report.from_scratch is None:
        headline, evidence = _without_a_baseline(report)
    else:
        headline, evidence = _against_the_baseline(report, report.from_scratch)
    if report.copying and not report.copying.passed:
        headline = f"{headline.removesuffix('.')}, but the samples copy training images."
    sentences = (evidence, say_copying(report.copying), _say_variety(report), say_published(report.published))
    return Verdict(headline, " ".join(filter(None, sentences)), tuple(_caveats(report)))


def _apart(a: Number, b: Number) -> float:
    return standard_errors_apart(a.value, b.value, a.standard_error or 0.0, b.standard_error or 0.0)


def _against_the_baseline(report: EvaluationReport, from_scratch: Samples) -> tuple[str, str]:
    scratch, transferred = from_scratch.metrics["kid"], report.transferred.metrics["kid"]
    gain = report.transfer_gain
    evidence = (
        f"Against {report.test.n:,} test images, the transferred model scores a KID of {number(transferred)}; "
        f"the same model, data, seed and budget from scratch scores {number(scratch)}. "
    )
    if gain is not None and gain.interval is not None:
        better = (gain.interval[0] > 1) - (gain.interval[1] < 1)
        evidence += _gain_sentence(report, gain.value, gain.interval)
    else:
        apart = _apart(scratch, transferred)
        better = (apart > SIGNIFICANT_STANDARD_ERRORS) - (apart < -SIGNIFICANT_STANDARD_ERRORS)
        evidence += _how_far(apart)
    source = report.source_only.metrics["kid"]
    apart = _apart(source, transferred)
    if apart < -SIGNIFICANT_STANDARD_ERRORS:
        evidence += f" But the source model, not fine-tuned, scores {number(source)}. {_how_far(apart, 'Both KIDs')}"
        return MADE_WORSE, evidence
    return _headline(better, gain), evidence


def _headline(better: int, gain: Number | None) -> str:
    if better == 0:
        return "No clear difference between transfer and training from scratch."
    if better < 0:
        return "Transfer did not help: training from scratch came closer."
    if gain is None:
        return "Transfer helped: the transferred samples can hardly be told from test images."
    if gain.interval is None:
        return "Transfer helped: KID is lower than from scratch, and too near 0 to say how many times."
    return f"Transfer helped: KID is {gain.value:.{1 if gain.value > 1.1 else 2}f} times lower than from scratch."


def _gain_sentence(report: EvaluationReport, gain: float, interval: tuple[float, float]) -> str:
    low, high = interval
    images = f"{report.measured.n_reference:,} test images and {report.measured.n_samples:,} samples of each model"
    found = f"That is a gain of {gain:.2f}, with a 95 % interval of {low:.2f} to {high:.2f}."
    if low <= 1 <= high:
        return (
            f"{found} Equality, a gain of 1, lies within: {images} are too few to tell the two apart, if they differ."
        )
    return f"{found} Equality, a gain of 1, lies outside: {images} are enough to tell the two apart."


def _without_a_baseline(report: EvaluationReport) -> tuple[str, str]:
    source, transferred = report.source_only.metrics["kid"], report.transferred.metrics["kid"]
    apart = _apart(source, transferred)
    evidence = (
        f"Against {report.test.n:,} test images, the transferred model scores a KID of {number(transferred)}; "
        f"the source model, not fine-tuned, scores {number(source)}. {_how_far(apart)} Whether training from "
        "scratch would have done as well is not known: the baseline was left out (baseline.enabled: false)."
    )
    if apart > SIGNIFICANT_STANDARD_ERRORS:
        return "Fine-tuning moved the model towards the target.", evidence
    if apart < -SIGNIFICANT_STANDARD_ERRORS:
        return MADE_WORSE, evidence
    return "Fine-tuning did not move the model measurably towards the target.", evidence


def _how_far(apart: float, what: str = "They") -> str:
    if abs(apart) <= SIGNIFICANT_STANDARD_ERRORS:
        return f"{what} lie {abs(apart):.1f} standard errors apart: chance alone may explain that."
    size = f"{abs(apart):.0f}" if abs(apart) < 1000 else "over 1,000"
    return f"{what} lie {size} standard errors apart: more than the draw of the images explains."


def say_copying(copying: Copying | None, pairs: str = "the pairs below") -> str:
    """Return in a sentence or two whether the samples repeat training images, with the shares that say so.

    `pairs` is where the reader finds the samples beside the training images that they come closest to.
    """
    if copying is None:
        return "Whether its samples repeat training images was not measured."
    copies, near = copying.copies, copying.near
    shares = (
        f"{percent(copies.samples)} of its samples are copies of training images, or nearly so "
        f"({percent(copies.real)} of unseen real images count as such, up to {percent(copies.allowed)} is allowed), "
        f"and {percent(near.samples)} lie next to one ({percent(near.real)} of unseen real images do, up to "
        f"{percent(near.allowed)} is allowed)."
    )
    if copying.passed and rules_out_little(copies.allowed, copies.real, near.allowed):
        return (
            f"No copying was found, but so few images were compared that only much of it would have been: {shares} "
            f"Compare {pairs} by eye."
        )
    if copying.passed:
        return f"The transferred model does not copy: {shares}"
    return f"The transferred model copies: {shares} A low KID is then no merit."


def _say_variety(report: EvaluationReport) -> str:
    diversity = report.transferred.metrics.get("diversity")
    return say_variety(None if diversity is None else diversity.value, report.yardsticks.get("diversity_real"))


def say_published(published: Published | None) -> str:
    """Return in a sentence which moment of fine-tuning is published, and how much better it is than the last one."""
    if published is None:
        return ""
    last = f"{published.final_kimg:g} kimg"
    if published.kimg is None or published.validation_kid is None:
        return f"What is published is the end of fine-tuning, at {last}: no validation images chose a moment."
    kid = f"KID on {published.extractor}"  # which that of the evaluation need not be
    best = f"{kid} {number(Number(published.validation_kid))}"
    if published.kimg == published.final_kimg:
        return f"What is published is the end of fine-tuning, at {last}: the best on validation images ({best})."
    final = published.final_validation_kid
    end = "no images any more" if final is None else f"{kid} {number(Number(final))}"
    return (
        f"What is published is not the end of fine-tuning at {last} ({end}) but its best moment on validation images, "
        f"at {published.kimg:g} kimg ({best})."
    )


def _caveats(report: EvaluationReport) -> list[str]:
    caveats = [
        "The intervals cover which images were drawn, not how another training seed would have turned out: "
        "each model here was trained once.",
    ]
    if report.copying is None:
        caveats.append(
            "A low KID does not rule out copying, and the check for it (memorization) was left out: compare the "
            f"samples with the {report.target.n:,} training images by eye before you rely on the model."
        )
    if (n := report.measured.n_reference) < FEW_TEST_IMAGES:
        caveats.append(
            f"{n:,} test images are few, so the intervals themselves are rough: hold out {FEW_TEST_IMAGES} or more for "
            "the test before you rely on them."
        )
    return [*caveats, *report.notes]


def percent(share: float) -> str:
    """Return a share for people: 12.3 %."""
    return f"{100 * share:.1f}\N{NO-BREAK SPACE}%"


def number(measured: Number, most_digits: int = 4) -> str:
    """Return `measured` for people: four digits after the point below 0.1, fewer above, with its standard error."""
    digits = min(_digits(measured.value), most_digits)
    error = "" if measured.standard_error is None else f" ± {measured.standard_error:.{digits}f}"
    return _typeset(f"{measured.value:z.{digits}f}{error}")  # z: no minus before a zero


def interval(measured: Number) -> str:
    """Return the 95 % interval for people, with the digits of the value; empty where there is none."""
    if measured.interval is None:
        return ""
    digits = _digits(measured.value)
    return " to ".join(_typeset(f"{end:z.{digits}f}") for end in measured.interval)


def _digits(value: float) -> int:
    return 4 if abs(value) < 0.1 else 3 if abs(value) < 10 else 1


def _typeset(text: str) -> str:
    return text.replace("-", "\N{MINUS SIGN}").replace(" ", "\N{NO-BREAK SPACE}")
