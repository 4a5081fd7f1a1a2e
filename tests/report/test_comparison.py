"""Ranking methods: by mean validation KID, failed ones behind, copiers last; what is said of it, and the page."""

import io
import json
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from PIL import Image

from genxfer.report.comparison import Trial, best_trial, caveat, headline, rank, say_failed, say_order
from genxfer.report.comparison_page import draw_ranking, render_comparison, table

SAMPLES = np.random.default_rng(0).integers(0, 256, (40, 1, 16, 16), dtype=np.uint8)
FACTS: dict[str, Any] = {"source": "mnist", "target": "digits", "family": "dcgan", "n_train": 100, "lost": []}
MEASURED = {
    "extractor": "lite0",
    "extractor_digest": "a1b2c3d4e5f60718",
    "n_samples": 500,
    "seed": 7,
    "n_reference": 1000,
    "reference_digest": "1f2e3d4c5b6a7988",
    "n_validation": 120,
}
FACTS["measured"] = MEASURED


def trial(method: str, kid: float, seed: int = 1, error: float = 0.01, copies: bool | None = False) -> Trial:
    return Trial(method, seed, None, kid, error, 2.0, copies, 15.0, 300, 100, SAMPLES)


def chosen(method: str, validation_kid: float, kid: float, seed: int = 1) -> Trial:
    return replace(trial(method, kid, seed), validation_kid=validation_kid)


def test_the_lowest_mean_is_first() -> None:
    trials = [trial("full", 0.5), trial("lora", 0.3), trial("full", 0.1, seed=2), trial("lora", 0.32, seed=2)]
    assert [(contender.method, contender.kid) for contender in rank(trials)] == [
        ("full", pytest.approx(0.3)),
        ("lora", pytest.approx(0.31)),
    ]


def test_validation_chooses_and_test_reports() -> None:
    ranking = rank([chosen("full", 0.30, 0.30), chosen("lora", 0.25, 0.40), chosen("ewc", 0.35, 0.10)])
    assert [contender.method for contender in ranking] == ["lora", "full", "ewc"]
    assert [contender.kid for contender in ranking] == [0.40, 0.30, 0.10]  # as measured on the test images
    order = say_order(ranking, 120)
    assert "the 120 validation images" in order
    assert "The test images would have made another order: ewc, full, lora." in order
    assert "another order" not in say_order(rank([chosen("full", 0.2, 0.3), chosen("lora", 0.3, 0.4)]), 120)


def test_what_is_claimed_of_the_first_and_the_second_is_of_the_test_images() -> None:
    def said(first: float, second: float, *more: Trial) -> str:
        return headline(rank([chosen("lora", 0.2, first), chosen("full", 0.3, second), *more]))

    assert said(0.30, 0.40) == "lora is best: its KID on the test images is 0.1000 below that of full."
    assert said(0.30, 0.31) == (
        "lora came out first on the validation images, but on the test images full is not clearly behind."
    )
    assert said(0.40, 0.30) == (
        "lora came out first on the validation images, but on the test images full is better: its KID is 0.1000 lower."
    )
    assert said(0.30, 0.40, chosen("ewc", 0.4, 0.1)) == (
        "lora came out first on the validation images: its KID on the test images is 0.1000 below that of full."
    )


def test_the_trial_to_go_on_with_is_chosen_on_the_validation_images() -> None:
    kids = ((0.1, 0.29), (0.29, 0.5), (0.5, 0.3))
    assert best_trial(rank([chosen("full", *pair, seed) for seed, pair in enumerate(kids)])).seed == 1


def test_without_validation_images_the_winner_is_said_to_be_flattered() -> None:
    ranking = rank([trial("full", 0.30), trial("lora", 0.25)])
    assert [contender.method for contender in ranking] == ["lora", "full"]
    assert "flattered by the choice" in say_order(ranking, 0)
    with pytest.raises(ValueError, match="cannot be ranked"):
        rank([trial("full", 0.30), chosen("lora", 0.2, 0.25)])


def test_a_method_that_diverges_does_not_win_by_its_lucky_seeds() -> None:
    trials = [
        trial("lucky", 0.01),
        *(trial("full", 0.3, seed) for seed in (1, 2, 3)),
        trial("copies", 0.0, copies=True),
    ]
    ranking = rank(trials, {"lucky": 2})
    assert [contender.method for contender in ranking] == ["full", "lucky", "copies"]
    assert [row["seeds"] for row in table(ranking)] == ["3", "1 of 3 seeds, 2 failed", "1"]
    assert headline(ranking).startswith("full came out first: lucky (1 of 3 seeds, 2 failed) ranks behind")
    assert "lucky (1 of 3 seeds, 2 failed)" in say_failed(ranking)
    page = render_comparison(ranking, FACTS | {"lost": ["ewc"]}, SAMPLES)
    assert page.count("1 of 3 seeds, 2 failed") >= 3  # in the title, in the table and below it
    assert "Failed with every seed, and so not ranked: ewc." in page
    assert headline(rank([trial("lucky", 0.01)], {"lucky": 2})) == (
        "lucky (1 of 3 seeds, 2 failed) was the only contender."
    )
    assert say_failed(rank([trial("full", 0.3)])) == ""


def test_a_method_that_copies_ranks_behind_all_that_do_not() -> None:
    ranking = rank([trial("full", 0.01, copies=True), trial("lora", 0.3), trial("ewc", 0.4, copies=None)])
    assert [contender.method for contender in ranking] == ["lora", "ewc", "full"]
    assert "only" not in headline(ranking)
    assert headline(rank([trial("full", 0.01, copies=True), trial("lora", 0.3)])) == (
        "lora is best: all other methods copy their training images."
    )
    assert headline(rank([trial("full", 0.01, copies=True)])).startswith("Every method copies")


def test_with_three_seeds_the_interval_is_students_over_the_seeds() -> None:
    [contender] = rank([trial("full", kid, seed) for seed, kid in enumerate((0.1, 0.2, 0.3))])
    low, high = contender.interval  # mean 0.2, standard deviation 0.1, t of two degrees of freedom 4.303
    assert (low, high) == (pytest.approx(0.2 - 4.303 * 0.1 / 3**0.5), pytest.approx(0.2 + 4.303 * 0.1 / 3**0.5))
    assert "over seeds" in caveat([contender])


@pytest.mark.parametrize(("seeds", "quantile"), [(11, 2.228), (12, 2.201), (16, 2.131), (31, 2.042), (101, 1.984)])
def test_with_many_seeds_it_is_still_students(seeds: int, quantile: float) -> None:
    [contender] = rank([trial("full", 0.1 * (seed % 2), seed) for seed in range(seeds)])
    low, high = contender.interval
    assert high - low == pytest.approx(2 * quantile * contender.standard_error, rel=1.5e-3)


def test_with_fewer_it_covers_the_draw_of_the_images_and_says_so() -> None:
    [contender] = rank([trial("full", 0.1, 1, error=0.02), trial("full", 0.3, 2, error=0.02)])
    assert contender.interval == (pytest.approx(0.2 - 1.96 * 0.02), pytest.approx(0.2 + 1.96 * 0.02))
    assert "not how another seed" in caveat([contender])


def test_a_difference_within_the_errors_is_not_called_one() -> None:
    assert headline(rank([trial("full", 0.30), trial("lora", 0.31)])) == (
        "full came out first, but lora is not clearly behind."
    )
    assert headline(rank([trial("full", 0.30), trial("lora", 0.35)])) == (
        "full is best: its KID is 0.0500 below that of lora."
    )


def test_with_three_seeds_a_difference_has_to_exceed_what_so_few_tell() -> None:
    def three(method: str, *kids: float) -> list[Trial]:
        return [trial(method, kid, seed) for seed, kid in enumerate(kids)]

    # 2.45 combined standard errors apart, where four degrees of freedom ask for 2.776.
    near = rank([*three("full", 0.28, 0.30, 0.32), *three("lora", 0.32, 0.34, 0.36)])
    assert headline(near) == "full came out first, but lora is not clearly behind."
    far = rank([*three("full", 0.28, 0.30, 0.32), *three("lora", 0.33, 0.35, 0.37)])
    assert headline(far).startswith("full is best")


def test_the_trial_to_go_on_with_is_no_lucky_draw() -> None:
    ranking = rank([trial("full", kid, seed) for seed, kid in enumerate((0.1, 0.29, 0.5))])
    assert best_trial(ranking).seed == 1


def test_no_trials_are_refused() -> None:
    with pytest.raises(ValueError, match="no trials"):
        rank([])


def test_the_page_has_every_method_and_is_the_same_each_time() -> None:
    ranking = rank(
        [chosen("full", 0.2345, 0.30), chosen("lora", 0.31, 0.31), replace(chosen("cdc", 1, -1), copies=None)]
    )
    page = render_comparison(ranking, FACTS, SAMPLES)
    assert page == render_comparison(ranking, FACTS, SAMPLES)
    assert all(f"Samples, {name}" in page for name in ("full", "lora", "cdc"))
    assert page.count("<img") == 4
    assert "75.0%" in page  # 300 of 400 parameters move
    assert "not measured" in page
    assert "0.2345" in page
    assert "lite0 (weights a1b2c3d4e5f6) on 500 samples of each model from seed 7, against 1,000 test images" in page
    assert "digest 1f2e3d4c5b6a" in page


def test_the_figure_is_a_picture_with_a_row_for_each_method() -> None:
    one, three = (draw_ranking(rank([trial(f"m{i}", 0.1 + i) for i in range(n)])) for n in (1, 3))
    sizes = [Image.open(io.BytesIO(png)).size for png in (one, three)]
    assert sizes[0][0] == sizes[1][0]
    assert sizes[0][1] < sizes[1][1]


def test_the_rows_are_plain_text() -> None:
    rows = table(rank([trial("full", 0.30), trial("lora", 0.31)]))
    assert json.loads(json.dumps(rows)) == rows
    assert rows[0]["95 % interval"] == "0.2804 to 0.3196"


def test_no_zero_has_a_minus_before_it() -> None:
    ranking = rank([trial("full", -0.00001, error=0.00001)])
    row = table(ranking)[0]
    assert (row["test KID"], row["95 % interval"]) == ("0.0000", "0.0000 to 0.0000")
    assert "-0.0000" not in render_comparison(ranking, FACTS, SAMPLES)
