"""The flow `compare`, run for real: side by side, ranked, the winner registered, everything shared and cached."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from tests.conftest import GenxferRun

pytestmark = [pytest.mark.slow, pytest.mark.service, pytest.mark.timeout(600)]

METHODS = ("--methods", "full", "freeze_d", "gradual", "--seeds", "1", "2")


@pytest.fixture(scope="module")
def folder(make_workspace: Callable[..., Path]) -> Path:
    return make_workspace("finetune.freeze=auto")


@pytest.fixture(scope="module")
def first(folder: Path, genxfer: GenxferRun) -> dict[str, Any]:
    done = genxfer(folder, "compare", *METHODS, "-S", "compare.at_once=2", "--json", timeout_s=500)
    assert done.returncode == 0, done.stderr
    assert "what moves at 0 kimg" in done.stderr  # what the processes of the pool say reaches the terminal
    summary: dict[str, Any] = json.loads(done.stdout)
    return summary


def test_every_method_is_ranked_and_the_best_is_registered(first: dict[str, Any], folder: Path) -> None:
    kids = [float(row["validation KID"]) for row in first["ranking"]]
    assert {row["method"] for row in first["ranking"]} == {"full", "freeze_d", "gradual"}
    assert kids == sorted(kids)
    assert first["model"]["uri"] == "models:/genxfer/1"
    best = first["ranking"][0]["method"]
    training = json.loads((folder / "artifacts/finetune/fingerprint.json").read_text())
    assert training["params"]["finetune"]["method"] == best  # the winner's results are laid out


def test_the_page_the_figure_and_the_numbers_are_laid_out(first: dict[str, Any], folder: Path) -> None:
    page = Path(first["report"])
    assert page == folder / "artifacts/compare/comparison.html"
    assert first["headline"] in page.read_text()
    assert page.with_suffix(".png").read_bytes().startswith(b"\x89PNG")
    assert json.loads(page.with_suffix(".json").read_text())["ranking"] == first["ranking"]


def test_a_second_comparison_finds_all_in_the_store_and_one_pretraining_served_it(
    first: dict[str, Any], folder: Path, genxfer: GenxferRun
) -> None:
    done = genxfer(folder, "compare", *METHODS, "--json")
    assert done.returncode == 0, done.stderr
    assert ": ran in" not in done.stderr
    assert json.loads(done.stdout)["ranking"] == first["ranking"]
    records = folder / ".genxfer/store/records"
    counts = {stage: len(list((records / stage).glob("*.json"))) for stage in ("pretrain", "finetune", "baseline")}
    assert counts == {"pretrain": 1, "finetune": 6, "baseline": 2}
