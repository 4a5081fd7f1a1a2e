"""The Markdown that people see as an artifact of a flow run."""

import base64
from pathlib import Path
from typing import Any

from genxfer.metrics.caution import MADE_WORSE
from tasks.pictures import report_markdown

SUMMARY: dict[str, Any] = {
    "stages": {},
    "metrics": {"kid": 0.0123, "fid": 45.67, "kid_source": 0.2, "fid_source": 301.0, "transfer_gain": None},
    "model": {"name": "genxfer", "version": "3", "uri": "models:/genxfer/3"},
    "report": str(Path("/project/artifacts/evaluate/report.html")),
}


def test_scores_stand_in_a_table_and_a_model_that_was_not_made_is_left_out() -> None:
    markdown = report_markdown(SUMMARY, {})
    assert "| transferred | 0.0123 | 45.7 |" in markdown
    assert "| source only | 0.2000 | 301.0 |" in markdown
    assert "from scratch" not in markdown
    assert "Transfer gain" not in markdown


def test_a_model_that_fine_tuning_made_worse_is_called_so() -> None:
    assert MADE_WORSE not in report_markdown(SUMMARY, {})
    worse = {**SUMMARY, "metrics": {**SUMMARY["metrics"], "kid_source": 0.01}}
    assert f"**{MADE_WORSE}**" in report_markdown(worse, {})


def test_the_pictures_are_inside_the_markdown_each_below_its_name() -> None:
    markdown = report_markdown(SUMMARY, {"target": b"\x89PNG first", "transferred": b"\x89PNG second"})
    _, *sections = markdown.split("### ")
    assert [section.splitlines()[0] for section in sections] == ["target", "transferred"]
    encoded = [section.partition("base64,")[2].strip().rstrip(")") for section in sections]
    assert [base64.b64decode(text) for text in encoded] == [b"\x89PNG first", b"\x89PNG second"]


def test_the_registered_model_and_the_report_are_named() -> None:
    markdown = report_markdown(SUMMARY, {})
    assert "models:/genxfer/3" in markdown
    assert "Report: `/project/artifacts/evaluate/report.html`" in markdown
