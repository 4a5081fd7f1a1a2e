"""The page: says what the numbers allow, shows every picture, stands alone, and is the same each time."""

import base64
import io
import re
from dataclasses import replace
from html import unescape
from html.parser import HTMLParser

import numpy as np
import pytest
from PIL import Image

from genxfer.report.curves import Curves
from genxfer.report.evaluation import EvaluationReport, LayerGroupRow, Measured, Number, RealImages, Samples
from genxfer.report.page import render_page
from genxfer.report.verdict import judge, number, standard_errors_apart


def pictures(seed: int, channels: int = 1, size_px: int = 32) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 256, (40, channels, size_px, size_px), dtype=np.uint8)


def samples(seed: int, kid: float, standard_error: float, fid: float) -> Samples:
    return Samples(pictures(seed), {"kid": Number(kid, standard_error), "fid": Number(fid)})


@pytest.fixture
def report() -> EvaluationReport:
    curves = Curves((1000, 2000), {"D/real": (0.5, 0.25)})
    return EvaluationReport(
        family="dcgan",
        method="freeze",
        source=RealImages(pictures(0), "mnist", 5000),
        target=RealImages(pictures(1), "data/target", 100),
        test=RealImages(pictures(2), "digits", 1441),
        source_only=samples(3, 0.2093, 0.0041, 141.3),
        from_scratch=samples(4, 0.0672, 0.0022, 71.4),
        transferred=samples(5, 0.0217, 0.0012, 33.8),
        transfer_gain=3.1,
        measured=Measured(1500, 1441, "lite0", 1280, "57" * 32, "ab" * 32, seed=7),
        curves={"pretrain": curves, "finetune": curves, "baseline": curves},
        layer_groups=(
            LayerGroupRow("generator", "block_32px", 1200, moving=1200),
            LayerGroupRow("discriminator", "block_32px", 320, moving=0),
            LayerGroupRow("discriminator", "head", 4097, moving=4097),
        ),
        lineage={"target data": {"DVC md5": "c0" * 16 + ".dir"}, "finetune": {"fingerprint": "fe" * 32}},
    )


def text_of(page: str) -> str:
    return " ".join(unescape(re.sub(r"<style>.*?</style>|<[^>]*>", " ", page, flags=re.DOTALL)).split())


def test_the_page_says_that_transfer_helped_and_by_how_much(report: EvaluationReport) -> None:
    text = text_of(render_page(report))
    assert "Transfer helped: KID is 3.1 times lower than from scratch." in text
    assert "0.0217 ± 0.0012" in text
    assert "0.0672 ± 0.0022" in text
    assert "18 standard errors apart: more than the draw of the images explains" in text
    assert "Nothing here measures whether samples repeat the 100 training images" in text


def test_a_source_model_from_elsewhere_needs_no_source_images_and_no_curve(report: EvaluationReport) -> None:
    curves = {stage: curve for stage, curve in report.curves.items() if stage != "pretrain"}
    page = render_page(replace(report, source=None, curves=curves))
    text = text_of(page)
    assert "a source model from elsewhere → data/target" in text
    assert "Pretraining on the source" not in text
    assert "Samples, source-only" in text
    assert page.count("<img") == render_page(report).count("<img") - 1


def test_a_difference_within_the_standard_errors_is_not_called_one(report: EvaluationReport) -> None:
    report = replace(report, from_scratch=samples(4, 0.0230, 0.0012, 34.0), transfer_gain=1.06)
    verdict = judge(report)
    assert verdict.headline.startswith("No clear difference")
    assert "0.8 standard errors apart: chance alone may explain that" in verdict.evidence


def test_a_transfer_that_made_it_worse_is_said_to_have_failed(report: EvaluationReport) -> None:
    verdict = judge(replace(report, from_scratch=samples(4, 0.0100, 0.0012, 20.0), transfer_gain=0.46))
    assert verdict.headline == "Transfer did not help: training from scratch came closer."


def test_a_kid_at_zero_is_given_no_ratio(report: EvaluationReport) -> None:
    verdict = judge(replace(report, transferred=samples(5, -0.0003, 0.0005, 9.0), transfer_gain=None))
    assert "times" not in verdict.headline
    assert verdict.headline.startswith("Transfer helped")
    assert "\N{MINUS SIGN}0.0003" in verdict.evidence


def test_without_a_baseline_the_page_claims_no_gain(report: EvaluationReport) -> None:
    curves = {stage: report.curves[stage] for stage in ("pretrain", "finetune")}
    page = render_page(replace(report, from_scratch=None, transfer_gain=None, curves=curves))
    text = text_of(page)
    assert "Fine-tuning moved the model towards the target." in text
    assert "baseline.enabled: false" in text
    assert "Samples, from scratch" not in text
    assert page.count("<img ") == 5


@pytest.mark.parametrize(("n_samples", "warned"), [(1000, True), (1280, True), (1281, False)])
def test_fid_on_too_few_images_is_called_unreliable(report: EvaluationReport, n_samples: int, warned: bool) -> None:
    page = render_page(replace(report, measured=replace(report.measured, n_samples=n_samples)))
    assert ("FID is unreliable here" in page) is warned


def test_a_report_without_fid_has_no_word_of_it(report: EvaluationReport) -> None:
    def without_fid(scored: Samples) -> Samples:
        return replace(scored, metrics={"kid": scored.metrics["kid"]})

    names = ("source_only", "from_scratch", "transferred")
    report = replace(report, **{name: without_fid(getattr(report, name)) for name in names})
    report = replace(report, measured=replace(report.measured, n_samples=100))
    assert "FID" not in text_of(render_page(report))


def test_every_number_comes_with_what_it_depends_on(report: EvaluationReport) -> None:
    text = text_of(render_page(report))
    for wanted in ("1,500", "1,441", "lite0, 1,280 features", "57" * 32, "ab" * 32, "c0" * 16 + ".dir", "fe" * 32):
        assert wanted in text
    assert "Seed of the samples 7" in text
    assert "5,297 parameters moved, 320 stayed fixed" in text


def test_the_grids_hold_the_images_at_one_scale(report: EvaluationReport) -> None:
    page = render_page(report)
    found = re.findall(
        r'<img alt="([^:]*):[^"]*" width="(\d+)" height="(\d+)" src="data:image/png;base64,([^"]+)"', page
    )
    assert [title for title, *_ in found] == [
        "Source",
        "Target, training",
        "Target, test",
        "Samples, source-only",
        "Samples, from scratch",
        "Samples, transferred",
    ]
    for seed, (_, width_px, height_px, png) in enumerate(found):
        picture = np.asarray(Image.open(io.BytesIO(base64.b64decode(png))))
        assert (int(height_px), int(width_px)) == (2 * picture.shape[0], 2 * picture.shape[1])
        assert np.array_equal(picture[:32, 34:66, 0], pictures(seed)[1, 0])
    assert "image-rendering: pixelated" in page


@pytest.mark.parametrize(("channels", "size_px"), [(1, 8), (3, 28), (3, 64), (3, 256)])
def test_grids_of_any_resolution_fit_their_column(report: EvaluationReport, channels: int, size_px: int) -> None:
    image = RealImages(pictures(0, channels, size_px), "emoji", 40)
    page = render_page(replace(report, source=image))
    match = re.search(r'<img alt="Source:[^"]*" width="(\d+)"', page)
    assert match is not None
    assert int(match[1]) <= max(336, 2 * size_px + 2)


def test_the_page_stands_alone_and_is_the_same_each_time(report: EvaluationReport) -> None:
    page = render_page(report)
    assert render_page(report) == page
    assert "<script" not in page
    addresses = re.findall(r'(?:src|href|action)="([^"]*)"|url\(([^)]*)\)|@import', page)
    for address in ("".join(found) for found in addresses):
        assert address.startswith(("data:image/png;base64,", "#"))
    assert "prefers-color-scheme: dark" in page


def test_the_page_is_well_formed(report: EvaluationReport) -> None:
    class Balance(HTMLParser):
        open_tags: list[str]

        def handle_starttag(self, tag: str, attrs: list) -> None:
            if tag not in ("meta", "img"):
                self.open_tags.append(tag)

        def handle_endtag(self, tag: str) -> None:
            assert self.open_tags.pop() == tag, f"</{tag}> at {self.getpos()}"

    parser = Balance()
    parser.open_tags = []
    parser.feed(render_page(report))
    assert parser.open_tags == []


def test_a_name_with_markup_in_it_is_shown_as_text(report: EvaluationReport) -> None:
    page = render_page(replace(report, target=replace(report.target, name="<b>mine</b>")))
    assert "<b>mine</b>" not in page
    assert "&lt;b&gt;mine&lt;/b&gt;" in page


def test_numbers_are_written_with_as_many_digits_as_they_deserve() -> None:
    written = [number(Number(0.02171, 0.00123)), number(Number(33.84)), number(Number(-0.0004, 0.001))]
    assert [text.replace("\N{NO-BREAK SPACE}", " ") for text in written] == [
        "0.0217 ± 0.0012",
        "33.8",
        "\N{MINUS SIGN}0.0004 ± 0.0010",
    ]


def test_distances_are_counted_in_combined_standard_errors() -> None:
    assert standard_errors_apart(Number(1.0, 0.3), Number(0.0, 0.4)) == pytest.approx(2.0)
    assert standard_errors_apart(Number(1.0), Number(1.0)) == 0
