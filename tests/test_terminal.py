"""What the command line says at the end of a run."""

from typing import Any

import pytest

from genxfer.metrics.caution import MADE_WORSE
from genxfer.planning import Explanation, Forecast
from genxfer.registry.onnx_export import Exported
from genxfer.terminal import (
    print_explanation,
    print_exported,
    print_forecast,
    print_outcome,
    print_ranking,
    print_summary,
)

METRICS: dict[str, Any] = {
    "kid": 0.3866,
    "fid": 172.9,
    "kid_scratch": 1.3027,
    "kid_source": 1.6339,
    "transfer_gain": 3.369,
    "transfer_gain_ci": [3.0799, 3.6859],
    "memorization": 0.2267,
    "memorization_heldout": 0.4799,
    "memorization_threshold": 0.5327,
    "memorization_passed": True,
    "copies": 0.0013,
    "copies_heldout": 0.0,
    "copies_threshold": 0.02,
}


def said(capsys: pytest.CaptureFixture[str], **changes: object) -> str:
    metrics = {name: value for name, value in (METRICS | changes).items() if value is not None}
    model = {"name": "genxfer", "version": "1", "uri": "models:/genxfer/1"}
    stages = {"evaluate": {"state": "ran", "seconds": 23.92}}
    print_summary({"stages": stages, "metrics": metrics, "model": model, "report": "report.html"})
    return capsys.readouterr().out


def test_a_run_ends_with_its_gain_how_sure_it_is_and_whether_the_model_copies(
    capsys: pytest.CaptureFixture[str],
) -> None:
    text = said(capsys)
    assert "transfer gain  3.37  (95 % interval 3.08 to 3.69; KID from scratch / KID transferred)" in text
    near = "next to a training image 22.7 % (unseen real ones 48.0 %, allowed 53.3 %)"
    shares = f"0.1 % of samples (allowed 2.0 %); {near}"
    assert f"copies         no: {shares}" in text
    assert f"copies         yes: {shares}" in said(capsys, memorization_passed=False)


def test_a_gain_does_not_hide_that_fine_tuning_made_it_worse(capsys: pytest.CaptureFixture[str]) -> None:
    assert MADE_WORSE not in said(capsys)
    assert f"but            {MADE_WORSE}\n" in said(capsys, kid_source=0.2)


def test_what_was_not_measured_is_not_said(capsys: pytest.CaptureFixture[str]) -> None:
    text = said(capsys, transfer_gain=None, memorization_passed=None, kid_scratch=None)
    assert "gain" not in text
    assert "copies" not in text
    assert "from scratch" not in text
    assert "interval" not in said(capsys, transfer_gain_ci=None)


def test_a_version_that_was_deleted_meanwhile_costs_no_summary(capsys: pytest.CaptureFixture[str]) -> None:
    print_summary({"stages": {}, "metrics": METRICS, "model": None, "report": "report.html"})
    print_ranking({"ranking": [{"method": "full"}], "headline": "", "model": None, "report": "page.html"})
    text = capsys.readouterr().out
    assert text.count("registered     no more: the version was deleted in MLflow meanwhile\n") == 2
    assert "pictures       report.html" in text
    assert "page           page.html" in text


def test_what_looks_like_markup_in_a_path_or_a_name_is_shown_as_it_is(capsys: pytest.CaptureFixture[str]) -> None:
    model = {"name": "digits[old]", "version": "1", "uri": "models:/digits[old]/1"}
    print_summary({"stages": {}, "metrics": {}, "model": model, "report": "/home/me/[old]/report.html"})
    print_ranking(
        {"ranking": [{"method": "full"}], "headline": "", "model": model, "report": "/home/me/[old]/page.html"}
    )
    print_forecast([Forecast("dataset_target", False, "data/[old] was changed", None, 1.0)])
    print_explanation(Explanation("dataset_target", "would run again: data/[old] was changed"))
    told = {"checks": [], "reason": "", "notes": [], "state": "promoted", "dry_run": False}
    print_outcome(told | {"champion": "1", "former": None, "name": "digits[old]"})
    print_exported(Exported("[old]/net.onnx", 1, "dcgan", 1, (1, 8, 8), 0.0, 1.0, 1.0))
    text = capsys.readouterr().out
    assert text.count("digits[old] version 1  models:/digits[old]/1") == 2
    assert "/home/me/[old]/report.html" in text
    assert "/home/me/[old]/page.html" in text
    assert text.count("data/[old] was changed") == 2
    assert "champion       version 1  models:/digits[old]/1\n" in text
    assert "[old]/net.onnx" in text


def test_a_line_is_whole_for_a_program_that_reads_it(capsys: pytest.CaptureFixture[str]) -> None:
    why = f"The difference is above 0. {'Its interval too. ' * 20}"
    checks = [{"name": "kid", "passed": True, "text": why}]
    told = {"checks": checks, "reason": why, "notes": [why], "state": "promoted", "dry_run": False, "name": "digits"}
    print_outcome(told | {"champion": "1", "former": None})
    assert capsys.readouterr().out.count(why.rstrip()) == 2
