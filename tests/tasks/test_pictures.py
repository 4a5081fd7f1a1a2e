"""The Markdown that people see as an artifact of a flow run."""

import base64
from pathlib import Path
from typing import Any

import pytest

from genxfer.artifacts.fingerprint import build_document, fingerprint
from genxfer.artifacts.store import LocalStore
from genxfer.metrics.caution import MADE_WORSE
from genxfer.pipeline import StageResult
from tasks.pictures import pictures_of, report_markdown

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


def test_a_run_shows_its_own_pictures_and_not_those_that_another_one_laid_out(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    store = LocalStore(tmp_path / "store")

    def run(whose: bytes) -> list[StageResult]:
        results = []
        for stage, names in (("dataset_target", ["preview.png"]), ("evaluate", ["samples.png", "samples_source.png"])):
            out = tmp_path / "out" / stage
            out.mkdir(parents=True, exist_ok=True)
            for name in names:
                (out / name).write_bytes(name.encode() + whose)
            document = build_document(stage=stage, params={"of": whose.decode()}, inputs={}, code={}, libraries={})
            fp = fingerprint(document)
            record = store.publish(stage, fp, out, document=document, seconds=0.0, facts={}, versions={})
            store.export(record, Path("artifacts", stage))
            results.append(StageResult(stage, "ran", fp, 0.0, record))
        return results

    mine = run(b" of A")
    run(b" of B")
    assert pictures_of(mine, store) == {
        "target": b"preview.png of A",
        "transferred": b"samples.png of A",
        "source only": b"samples_source.png of A",
    }


def test_the_registered_model_and_the_report_are_named() -> None:
    markdown = report_markdown(SUMMARY, {})
    assert "models:/genxfer/3" in markdown
    assert "Report: `/project/artifacts/evaluate/report.html`" in markdown
