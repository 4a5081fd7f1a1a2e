"""The page: shows every picture and number, stands alone, and is the same each time."""

import base64
import io
import re
from dataclasses import replace
from html import unescape
from html.parser import HTMLParser

import numpy as np
import pytest
from PIL import Image

from genxfer.metrics import METRICS
from genxfer.report.evaluation import (
    Copying,
    EvaluationReport,
    Film,
    Likeness,
    Number,
    RealImages,
    Samples,
    Shares,
)
from genxfer.report.page import render_page
from tests.report.reports import pictures


def text_of(page: str) -> str:
    return " ".join(unescape(re.sub(r"<style>.*?</style>|<[^>]*>", " ", page, flags=re.DOTALL)).split())


def test_the_page_says_that_transfer_helped_and_by_how_much(report: EvaluationReport) -> None:
    text = text_of(render_page(report))
    assert "Transfer helped: KID is 3.1 times lower than from scratch." in text
    assert "0.0217 ± 0.0012" in text
    assert "0.0672 ± 0.0022" in text
    assert "a gain of 3.10, with a 95 % interval of 2.70 to 3.55. Equality, a gain of 1, lies outside" in text
    assert "Whether its samples repeat training images was not measured." in text
    assert "Nothing here measures" not in text


def test_a_source_model_from_elsewhere_needs_no_source_images_and_no_curve(report: EvaluationReport) -> None:
    curves = {stage: curve for stage, curve in report.curves.items() if stage != "pretrain"}
    page = render_page(replace(report, source=None, curves=curves))
    text = text_of(page)
    assert "a source model from elsewhere → data/target" in text
    assert "Pretraining on the source" not in text
    assert "Samples, source-only" in text
    assert page.count("<img") == render_page(report).count("<img") - 1


def test_without_a_baseline_the_page_claims_no_gain(report: EvaluationReport) -> None:
    curves = {stage: report.curves[stage] for stage in ("pretrain", "finetune")}
    page = render_page(replace(report, from_scratch=None, transfer_gain=None, curves=curves))
    text = text_of(page)
    assert "Fine-tuning moved the model towards the target." in text
    assert "baseline.enabled: false" in text
    assert "Samples, from scratch" not in text
    assert page.count("<img ") == 5


def test_a_report_without_fid_has_no_word_of_it(report: EvaluationReport) -> None:
    def without_fid(scored: Samples) -> Samples:
        return replace(scored, metrics={"kid": scored.metrics["kid"]})

    names = ("source_only", "from_scratch", "transferred")
    report = replace(report, **{name: without_fid(getattr(report, name)) for name in names})
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


def strips(page: str) -> dict[str, list[tuple[np.ndarray, str, bool]]]:
    """Return the strips of a page by their label: each column's picture, its caption, and whether it is marked."""
    found = {}
    for label, content in re.findall(
        r'<div class="strip" role="img" aria-label="([^"]*)">(.*?)</div>', page, re.DOTALL
    ):
        columns = re.findall(
            r'<figure( class="marked")?><img alt="" width="(\d+)" height="(\d+)" src="data:image/png;base64,([^"]+)">'
            r"(?:<figcaption>(.*?)</figcaption>)?</figure>",
            content,
        )
        assert len(columns) == content.count("<figure")
        found[label] = []
        for marked, width_px, height_px, png, caption in columns:
            picture = np.asarray(Image.open(io.BytesIO(base64.b64decode(png))))
            scale = int(width_px) // picture.shape[1]
            assert (int(height_px), int(width_px)) == (scale * picture.shape[0], scale * picture.shape[1])
            found[label].append((picture[..., 0], caption, bool(marked)))
    return found


def pairs(seed: int, n: int = 8) -> np.ndarray:
    return pictures(seed)[: 2 * n].reshape(n, 2, 1, 32, 32)


def test_the_filmstrip_shows_the_same_noises_over_time_and_marks_what_is_published(report: EvaluationReport) -> None:
    frames = pictures(6)[:18].reshape(3, 6, 1, 32, 32)
    films = {"baseline": Film(frames, (0, 0.5, 1), None), "finetune": Film(frames[::-1], (0, 0.5, 1), 0.5)}
    page = render_page(replace(report, films=films))
    found = strips(page)
    assert list(found) == ["Samples over training, from scratch", "Samples over training, transferred"]
    for film, columns in zip(films.values(), found.values(), strict=True):
        assert [caption for _, caption, _ in columns] == ["start", "0.5 kimg", "1 kimg"]
        assert [marked for *_, marked in columns] == [kimg == film.published_kimg for kimg in film.kimg]
        for frame, (picture, *_) in zip(film.frames, columns, strict=True):
            assert [np.array_equal(picture[33 * i : 33 * i + 32], frame[i, 0]) for i in range(6)] == [True] * 6
    assert "begins as the source model" in text_of(page)


def test_a_run_that_nothing_validated_has_no_filmstrip(report: EvaluationReport) -> None:
    empty = Film(np.empty((0, 6, 1, 32, 32), np.uint8), (), None)
    assert "Over training" not in text_of(render_page(replace(report, films={"finetune": empty, "baseline": empty})))


def test_the_best_and_the_worst_samples_stand_above_their_nearest_test_images(report: EvaluationReport) -> None:
    found = strips(render_page(replace(report, likeness=Likeness(pairs(1), pairs(2)))))
    for (title, columns), seed in zip(found.items(), (1, 2), strict=True):
        assert title.startswith(("Most", "Least")[seed - 1] + " like the target: samples above")
        assert len(columns) == 8
        for (sample, real), (picture, *_) in zip(pairs(seed), columns, strict=True):
            assert np.array_equal(picture[:32], sample[0])
            assert np.array_equal(picture[33:], real[0])


@pytest.mark.parametrize("passed", [True, False])
def test_the_check_for_copies_comes_with_its_shares_and_the_closest_pairs(
    report: EvaluationReport, passed: bool
) -> None:
    page = render_page(
        replace(report, copying=Copying(Shares(0.04, 0.002, 0.05), Shares(0.4, 0.3, 0.44), passed, pairs(3)))
    )
    text = text_of(page)
    assert ("The transferred model does not copy: 4.0 % of its samples" in text) is passed
    assert ("The transferred model copies: 4.0 % of its samples" in text) is not passed
    assert ("but the samples copy training images" in text) is not passed
    for allowed in ("5.0 %", "44.0 %"):
        assert f"the line, at {allowed}, is what is allowed" in text
    (columns,) = strips(page).values()
    assert np.array_equal(columns[7][0][33:], pairs(3)[7, 1, 0])


def test_an_interpolation_is_a_row_from_left_to_right(report: EvaluationReport) -> None:
    images = pictures(7)[:32].reshape(4, 8, 1, 32, 32)
    (columns,) = strips(render_page(replace(report, interpolations=images))).values()
    assert len(columns) == 8
    for step, (picture, *_) in enumerate(columns):
        assert [np.array_equal(picture[33 * row : 33 * row + 32], images[row, step, 0]) for row in range(4)] == [
            True
        ] * 4


@pytest.mark.parametrize(("channels", "size_px"), [(1, 8), (3, 28), (3, 64), (3, 256)])
def test_columns_of_any_resolution_are_of_bounded_height(report: EvaluationReport, channels: int, size_px: int) -> None:
    frames = pictures(6, channels, size_px)[:12].reshape(2, 6, channels, size_px, size_px)
    page = render_page(replace(report, films={"finetune": Film(frames, (0, 1), 1)}))
    for width_px, height_px in re.findall(r'<img alt="" width="(\d+)" height="(\d+)"', page):
        assert 56 <= int(width_px) <= 64 or int(width_px) == size_px
        assert int(height_px) <= max(420, 2 * size_px + 2)


def test_every_metric_has_a_row_with_the_value_of_each_model_and_how_to_read_it(report: EvaluationReport) -> None:
    names = ["kid", "fid", "precision", "recall", "density", "coverage", "diversity", "memorization", "copies"]
    assert len(names) >= len(METRICS)

    def scored(shift: float) -> Samples:
        values = {name: Number(0.5 + shift + place / 100) for place, name in enumerate(names)}
        return Samples(pictures(1), {**values, "kid": Number(0.5 + shift, 0.01, (0.4, 0.6))})

    page = render_page(
        replace(
            report,
            source_only=scored(0.1),
            from_scratch=scored(0.2),
            transferred=scored(0.3),
            yardsticks={"memorization_heldout": 0.123, "copies_heldout": 0.456},
        )
    )
    table = re.search(r'<table class="numbers">(.*?)</table>', page, re.DOTALL)
    assert table is not None
    rows = [
        [text_of(cell) for cell in re.findall(r"<t[dh][^>]*>(.*?)</t[dh]>", row, re.DOTALL)]
        for row in re.findall(r"<tr[^>]*>(.*?)</tr>", table[1], re.DOTALL)
    ]
    assert rows[0] == ["Metric", "source-only", "from scratch", "transferred", "real images", "How to read it"]
    assert [row[0].lower() for row in rows[1:]] == names
    assert rows[1][1:4] == ["0.600 0.400 to 0.600", "0.700 0.400 to 0.600", "0.800 0.400 to 0.600"]
    assert rows[3][1:5] == ["0.620", "0.720", "0.820", "\N{EN DASH}"]
    assert [row[4] for row in rows[-2:]] == ["0.123", "0.456"]
    assert all(len(row[5]) > 20 for row in rows[1:])
    assert 'title="share of fake images that look real, 0 to 1"' in page


def test_what_became_of_fixed_layer_groups_later_stands_beside_their_count(report: EvaluationReport) -> None:
    later = "Everything moved after 5 kimg: this is how it began."
    assert f"from the image side to the latent side. {later}" in text_of(
        render_page(replace(report, said_of_moves=later))
    )
    assert "how it began" not in text_of(render_page(report))


def test_a_metric_that_one_model_lacks_leaves_a_gap(report: EvaluationReport) -> None:
    metrics = dict(report.source_only.metrics)
    del metrics["fid"]
    text = text_of(render_page(replace(report, source_only=replace(report.source_only, metrics=metrics))))
    assert "FID \N{EN DASH} 71.4 33.8" in text


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
