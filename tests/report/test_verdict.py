"""What the page says in words: each planted case gets those that are true of it, and no others."""

from dataclasses import replace

import numpy as np
import pytest

from genxfer.metrics.caution import FEW_TEST_IMAGES, MADE_WORSE, standard_errors_apart
from genxfer.report.evaluation import Copying, EvaluationReport, Number, Published, Shares
from genxfer.report.verdict import interval, judge, number, percent
from tests.report.reports import samples

NO_PAIRS = np.empty((0, 2, 1, 32, 32), np.uint8)


def plain(text: str) -> str:
    return text.replace("\N{NO-BREAK SPACE}", " ")


def copying(copies: float, allowed: float, *, passed: bool) -> Copying:
    return Copying(Shares(copies, 0.002, allowed), Shares(0.914, 0.312, 0.362), passed, NO_PAIRS)


def evidence(report: EvaluationReport) -> str:
    return plain(judge(report).evidence)


def test_a_gain_whose_interval_leaves_out_1_is_called_one(report: EvaluationReport) -> None:
    assert judge(report).headline == "Transfer helped: KID is 3.1 times lower than from scratch."
    words = evidence(report)
    assert "scores a KID of 0.0217 ± 0.0012" in words
    assert "from scratch scores 0.0672 ± 0.0022" in words
    assert "a gain of 3.10, with a 95 % interval of 2.70 to 3.55. Equality, a gain of 1, lies outside" in words
    assert "1,441 test images and 1,500 samples of each model are enough to tell the two apart" in words


@pytest.mark.parametrize("low_high", [(0.94, 1.21), (1.0, 1.2), (0.9, 1.0)])
def test_a_gain_whose_interval_includes_1_is_not_called_one(
    report: EvaluationReport, low_high: tuple[float, float]
) -> None:
    # However far the KIDs lie apart: the interval knows that both were measured with the same test images.
    report = replace(report, transfer_gain=Number(1.06, interval=low_high))
    assert judge(report).headline == "No clear difference between transfer and training from scratch."
    assert "Equality, a gain of 1, lies within" in evidence(report)
    assert "are too few to tell the two apart" in evidence(report)
    assert "enough" not in evidence(report)


def test_a_transfer_that_made_it_worse_is_said_to_have_failed(report: EvaluationReport) -> None:
    report = replace(
        report, from_scratch=samples(4, 0.01, 0.0012, 20.0), transfer_gain=Number(0.46, interval=(0.4, 0.53))
    )
    assert judge(report).headline == "Transfer did not help: training from scratch came closer."
    assert "Equality, a gain of 1, lies outside" in evidence(report)


@pytest.mark.parametrize(
    ("from_scratch", "headline", "words"),
    [
        (
            0.0672,
            "Transfer helped: KID is lower than from scratch, and too near 0 to say",
            "18 standard errors apart: more than the draw of the images",
        ),
        (0.0230, "No clear difference", "0.8 standard errors apart: chance alone may explain that"),
        (0.0100, "Transfer did not help", "7 standard errors apart: more than"),
    ],
)
def test_without_an_interval_the_standard_errors_decide(
    report: EvaluationReport, from_scratch: float, headline: str, words: str
) -> None:
    error = 0.0022 if from_scratch > 0.05 else 0.0012
    report = replace(report, from_scratch=samples(4, from_scratch, error, 34.0), transfer_gain=Number(3.1))
    assert judge(report).headline.startswith(headline)
    assert words in evidence(report)
    assert "interval" not in evidence(report)


@pytest.mark.parametrize(
    "gain", [Number(3.1, interval=(2.7, 3.55)), Number(3.1), Number(0.4, interval=(0.3, 0.5)), None]
)
def test_a_gain_over_training_from_scratch_is_no_help_where_the_source_model_was_better_as_it_was(
    report: EvaluationReport, gain: Number | None
) -> None:
    report = replace(report, source_only=samples(3, 0.0101, 0.0012, 20.0), transfer_gain=gain)
    assert judge(report).headline == MADE_WORSE
    words = evidence(report)
    assert "from scratch scores 0.0672 ± 0.0022" in words
    assert (
        "But the source model, not fine-tuned, scores 0.0101 ± 0.0012. Both KIDs lie 7 standard errors apart" in words
    )


def test_a_source_model_that_only_chance_makes_better_changes_nothing(report: EvaluationReport) -> None:
    near = replace(report, source_only=samples(3, 0.0190, 0.0012, 20.0))  # 1.6 standard errors lower
    assert judge(near) == judge(report)


@pytest.mark.parametrize(("gain", "said"), [(1.04, "1.04 times"), (3.14, "3.1 times")])
def test_a_small_gain_is_told_from_none(report: EvaluationReport, gain: float, said: str) -> None:
    report = replace(report, transfer_gain=Number(gain, interval=(1.01, 3.3)))
    assert judge(report).headline == f"Transfer helped: KID is {said} lower than from scratch."


def test_a_kid_at_zero_is_given_no_ratio(report: EvaluationReport) -> None:
    report = replace(report, transferred=samples(5, -0.0003, 0.0005, 9.0), transfer_gain=None)
    assert "times" not in judge(report).headline
    assert judge(report).headline.startswith("Transfer helped")
    assert "\N{MINUS SIGN}0.0003" in evidence(report)
    assert "a gain" not in evidence(report)


def test_without_a_baseline_no_gain_is_claimed(report: EvaluationReport) -> None:
    report = replace(report, from_scratch=None, transfer_gain=None)
    assert judge(report).headline == "Fine-tuning moved the model towards the target."
    assert "Whether training from scratch would have done as well is not known" in evidence(report)
    report = replace(report, source_only=report.transferred)
    assert judge(report).headline.startswith("Fine-tuning did not move the model measurably")
    report = replace(report, source_only=samples(3, 0.01, 0.0012, 20.0))
    assert judge(report).headline == MADE_WORSE


@pytest.mark.parametrize("baseline", [True, False])
def test_samples_that_copy_are_named_in_the_headline(report: EvaluationReport, baseline: bool) -> None:
    if not baseline:
        report = replace(report, from_scratch=None, transfer_gain=None)
    without = judge(report).headline
    report = replace(report, copying=copying(0.25, 0.022, passed=False))
    assert judge(report).headline == f"{without[:-1]}, but the samples copy training images."
    assert (
        "The transferred model copies: 25.0 % of its samples are copies of training images, or nearly so (0.2 % of "
        "unseen real images count as such, up to 2.2 % is allowed), and 91.4 % lie next to one (31.2 % of unseen real "
        "images do, up to 36.2 % is allowed). A low KID is then no merit."
    ) in evidence(report)
    assert "does not copy" not in evidence(report)


def test_samples_that_do_not_copy_are_said_not_to(report: EvaluationReport) -> None:
    without = judge(report).headline
    report = replace(report, copying=copying(0.01, 0.022, passed=True))
    assert judge(report).headline == without
    assert "The transferred model does not copy: 1.0 % of its samples are copies of" in evidence(report)
    assert not any("copying" in caveat for caveat in judge(report).caveats)


def test_a_check_against_few_held_out_images_rules_little_out(report: EvaluationReport) -> None:
    weak = copying(0.1, 0.2, passed=True)
    without_limit = replace(copying(0.1, 0.11, passed=True), near=Shares(1.0, 0.8, 1.0))
    for found in (weak, without_limit):
        words = evidence(replace(report, copying=found))
        assert "does not copy" not in words
        assert "No copying was found, but so few images were compared that only much of it would have been" in words


def test_copying_that_was_not_measured_is_not_ruled_out(report: EvaluationReport) -> None:
    assert "Whether its samples repeat training images was not measured." in evidence(report)
    assert "does not copy" not in evidence(report)
    (caveat,) = (caveat for caveat in judge(report).caveats if "copying" in caveat)
    assert "compare the samples with the 100 training images by eye" in caveat


@pytest.mark.parametrize(
    ("diversity", "said"), [(2.1, True), (10.6, True), (10.7, False), (21.0, False), (None, False)]
)
def test_samples_that_are_far_more_alike_than_real_images_are_said_to_be(
    report: EvaluationReport, diversity: float | None, said: bool
) -> None:
    metrics = dict(report.transferred.metrics) | ({} if diversity is None else {"diversity": Number(diversity)})
    report = replace(report, transferred=replace(report.transferred, metrics=metrics))
    assert "far more alike" not in evidence(report)  # without the yardstick nobody can say
    words = evidence(replace(report, yardsticks={"diversity_real": 21.3}))
    assert (f"their diversity is {diversity}, that of test images 21.3." in words) is said


@pytest.mark.parametrize(
    ("published", "words"),
    [
        (
            Published(6.0, 0.412, 10.0, 0.537, "lite0"),
            "not the end of fine-tuning at 10 kimg (KID on lite0 0.537) but its best moment on validation images, at "
            "6 kimg (KID on lite0 0.412).",
        ),
        (
            Published(10.0, 0.412, 10.0, 0.412, "lite0"),
            "the end of fine-tuning, at 10 kimg: the best on validation images (KID on lite0 0.412).",
        ),
        (Published(6.0, 0.412, 10.0, None, "lite0"), "at 10 kimg (no images any more) but its best moment"),
        (Published(None, None, 10.0, None, "lite0"), "at 10 kimg: no validation images chose a moment."),
    ],
)
def test_which_moment_is_published_is_said(report: EvaluationReport, published: Published, words: str) -> None:
    assert words in evidence(replace(report, published=published))
    assert "published" not in evidence(report)


@pytest.mark.parametrize(("n", "few"), [(12, True), (FEW_TEST_IMAGES - 1, True), (FEW_TEST_IMAGES, False)])
def test_few_test_images_are_called_few(report: EvaluationReport, n: int, few: bool) -> None:
    caveats = judge(replace(report, measured=replace(report.measured, n_reference=n))).caveats
    assert any(f"{n} test images are few" in caveat for caveat in caveats) is few


def test_what_the_metrics_say_of_themselves_is_passed_on(report: EvaluationReport) -> None:
    notes = ("FID: 90 images do not determine a covariance", "density_coverage was left out: ...")
    assert judge(replace(report, notes=notes)).caveats[-2:] == notes


def test_numbers_are_written_with_as_many_digits_as_they_deserve() -> None:
    numbers = [Number(0.02171, 0.00123), Number(0.37804, 0.0232), Number(33.84), Number(-0.0004, 0.001)]
    assert [plain(number(value)) for value in numbers] == [
        "0.0217 ± 0.0012",
        "0.378 ± 0.023",
        "33.8",
        "\N{MINUS SIGN}0.0004 ± 0.0010",
    ]
    assert plain(interval(Number(0.0217, interval=(-0.00123, 0.0229)))) == "\N{MINUS SIGN}0.0012 to 0.0229"
    assert interval(Number(0.0217)) == ""
    assert plain(number(Number(-0.00001, 0.001))) == "0.0000 ± 0.0010"
    assert plain(interval(Number(0.0001, interval=(-0.00001, 0.0002)))) == "0.0000 to 0.0002"
    assert number(Number(0.0217), most_digits=3) == "0.022"
    assert plain(percent(0.1234)) == "12.3 %"


def test_distances_are_counted_in_combined_standard_errors() -> None:
    assert standard_errors_apart(1.0, 0.0, 0.3, 0.4) == pytest.approx(2.0)
    assert standard_errors_apart(1.0, 1.0, 0.0, 0.0) == 0
