"""The model card: what it must say of every model, and what it may not hide."""

from dataclasses import replace
from typing import Any

import pytest

from genxfer.metrics.caution import MADE_WORSE
from genxfer.report.card import ImagesUsed, ModelCard, render_card, shorten_card

NUMBERS: dict[str, Any] = {
    "kid": 0.0217,
    "kid_ci": [0.0193, 0.0241],
    "kid_scratch": 0.0672,
    "kid_scratch_ci": [0.0628, 0.0716],
    "kid_source": 0.2093,
    "fid": 33.8,
    "fid_scratch": 71.4,
    "fid_source": 141.3,
    "transfer_gain": 3.1,
    "transfer_gain_ci": [2.7, 3.55],
    "memorization": 0.22,
    "memorization_heldout": 0.48,
    "memorization_threshold": 0.53,
    "memorization_passed": True,
    "copies": 0.001,
    "copies_heldout": 0.0,
    "copies_threshold": 0.02,
    "n_samples": 1500,
    "n_reference": 1441,
    "extractor": "lite0",
    "extractor_digest": "57" * 32,
    "feature_size": 1280,
    "seed": 7,
    "notes": ["FID of few images."],
}
CARD = ModelCard(
    name="faces",
    family="dcgan",
    method="freeze_d",
    resolution_px=32,
    channels=1,
    images=(
        ImagesUsed("source, trained on", "mnist", 5000, "a" * 64),
        ImagesUsed("target, trained on", "data/a|b", 100, "b" * 64, "c0" * 16 + ".dir"),
        ImagesUsed("target, tested on", "data/a|b", 1441, "d" * 64),
    ),
    training={"pretrain": "60 kimg in batches of 64", "finetune": "10 kimg in batches of 64; layers 2"},
    numbers=NUMBERS,
    published="What is published is its best moment.",
    lineage={"pretrain": "1" * 64, "evaluate": "2" * 64},
    git_commit="f" * 40,
    flow_run="flow run brave-owl (1234)",
)


def rows(text: str) -> dict[str, list[str]]:
    """Every row of every table, by its first cell."""
    cells = [
        [cell.strip() for cell in line.strip("|").split(" | ")] for line in text.splitlines() if line.startswith("|")
    ]
    return {first.strip("| "): rest for first, *rest in cells}


def test_the_card_says_where_the_model_comes_from_and_how_good_it_is() -> None:
    text = render_card(CARD)
    table = rows(text)
    assert table["kid"][:3] == ["0.0217 (0.0193 to 0.0241)", "0.0672 (0.0628 to 0.0716)", "0.2093"]
    assert "1,500 samples of each model (seed 7) against 1,441 test images" in text
    assert "Transfer gain 3.10 (KID from scratch / KID transferred, 95 % interval 2.70 to 3.55)" in text
    assert table["target, trained on"] == ["100", "data/a\\|b", f"`{'b' * 16}`", f"{'c0' * 16}.dir"]
    for fact in (
        "# faces: dcgan, adapted by freeze_d",
        "gray images of 32 x 32 pixels",
        "![samples](samples.png)",
        "- finetune: 10 kimg in batches of 64; layers 2",
        "What is published is its best moment.",
        f"- evaluate: `{'2' * 64}`",
        f"Git commit `{'f' * 40}`",
        "made by: flow run brave-owl (1234)",
        "It saw 5,000 images of mnist and 100 images of data/a|b",
        "Licences are not read",
        "EfficientNet-Lite0, trained on the photographs of ImageNet",
        "not with published FIDs",
        "FID of few images.",
    ):
        assert fact in text, fact


@pytest.mark.parametrize(
    ("commit", "dirty", "expected"),
    [
        ("f" * 40, True, f"- code: Git commit `{'f' * 40}` with uncommitted changes\n"),
        ("f" * 40, False, f"- code: Git commit `{'f' * 40}`\n"),
        ("f" * 40, None, f"- code: Git commit `{'f' * 40}`\n"),
        (None, None, "- code: in no Git checkout"),
    ],
)
def test_a_commit_that_is_not_the_code_is_not_named_as_if_it_were(
    commit: str | None, dirty: bool | None, expected: str
) -> None:
    assert expected in render_card(replace(CARD, git_commit=commit, git_dirty=dirty))


@pytest.mark.parametrize(
    ("passed", "expected"),
    [
        (True, "does not prove that no sample looks like a training image"),
        (False, "**It copies training images** (0.1\N{NO-BREAK SPACE}% of the samples"),
        (None, "**Whether it repeats training images was not measured**"),
    ],
)
def test_the_limits_say_what_the_check_for_copies_found(passed: bool | None, expected: str) -> None:
    text = render_card(replace(CARD, numbers=NUMBERS | {"memorization_passed": passed}))
    assert expected in text.partition("## Limits of use")[2]


def test_a_check_that_could_hardly_have_failed_is_no_comfort() -> None:
    text = render_card(replace(CARD, numbers=NUMBERS | {"copies_threshold": 0.31}))
    assert "Compare the pairs of report.html by eye" in text
    assert "it would only have found many" in text


def test_without_a_baseline_a_gain_or_a_source_of_its_own_nothing_is_said_of_them() -> None:
    numbers = {name: value for name, value in NUMBERS.items() if "scratch" not in name and "gain" not in name}
    text = render_card(replace(CARD, numbers=numbers, images=CARD.images[1:], source_model="models:/faces/3"))
    assert "scratch" not in text
    assert "- source model: models:/faces/3" in text
    assert "100 images of data/a|b, and before that what its source model, models:/faces/3, was trained on" in text
    assert "mnist" not in text


def test_a_gain_does_not_hide_that_fine_tuning_made_it_worse() -> None:
    assert MADE_WORSE not in render_card(CARD)
    worse = replace(CARD, numbers=NUMBERS | {"kid_source": 0.01})
    for text in (render_card(worse), shorten_card(worse, 1800)):
        assert text.index(f"**{MADE_WORSE}**") < text.index("Transfer gain 3.10")


def test_samples_that_are_all_alike_are_told() -> None:
    assert "far more alike" not in render_card(CARD)
    text = render_card(replace(CARD, numbers=NUMBERS | {"diversity": 2.1, "diversity_real": 21.3}))
    assert "**The samples are far more alike than real images: " in text


def test_few_test_images_are_told() -> None:
    assert "35 test images are few" in render_card(replace(CARD, numbers=NUMBERS | {"n_reference": 35}))


@pytest.mark.parametrize("limit", [500, 1500, 2500, 3500, 100_000])
def test_a_shorter_card_fits_and_keeps_what_counts_most(limit: int) -> None:
    short = shorten_card(CARD, limit)
    assert len(short) <= limit
    assert short.startswith("# faces")
    assert ("## Numbers" in short) == (limit >= 1500)
    assert ("The rest is in model_card.md" in short) == (short.count("## ") < render_card(CARD).count("## "))
    if limit == 2500:
        assert "## Limits of use" in short
        assert "## Lineage" not in short
