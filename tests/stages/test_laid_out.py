"""What a comparison makes of the stages' results: the ranking, failed seeds counted, and what it lays out."""

import json
from pathlib import Path

import numpy as np
import pytest

from genxfer.artifacts.fingerprint import build_document, fingerprint
from genxfer.artifacts.store import LocalStore
from genxfer.config import Params, parse_params
from genxfer.errors import StoreError
from genxfer.pipeline import Context, StageResult
from genxfer.report.comparison import Trial, rank
from genxfer.stages.comparison import lost_methods, measured_by, ranking_of, save_comparison, variants

IMAGES = np.zeros((4, 1, 16, 16), np.uint8)
MEASURED = {
    "extractor": "lite0",
    "extractor_digest": "a" * 64,
    "n_samples": 500,
    "seed": 0,
    "n_reference": 100,
    "reference_digest": "b" * 64,
    "n_validation": 50,
}


def test_a_comparison_that_cannot_be_laid_out_is_a_store_error(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "out").mkdir()
    np.save(tmp_path / "out" / "train.npy", IMAGES)
    document = build_document(stage="dataset_target", params={}, inputs={}, code={}, libraries={})
    store, fp = LocalStore(tmp_path / "store"), fingerprint(document)
    record = store.publish(
        "dataset_target",
        fp,
        tmp_path / "out",
        document=document,
        seconds=0.0,
        facts={"test_images": 100},
        versions={},
    )
    ranking = rank([Trial("full", 1, 0.1, 0.1, 0.01, 2.0, False, 1.0, 1, 1, IMAGES)])
    target = StageResult("dataset_target", "ran", fp, 0.0, record)
    (tmp_path / "artifacts").write_text("")  # where the folder is to be
    with pytest.raises(StoreError, match=r"could not be laid out.*artifacts"):
        save_comparison(ranking, Params(), target, Context(store), measured=MEASURED, lost=[])
    (tmp_path / "artifacts").unlink()
    page = save_comparison(ranking, Params(), target, Context(store), measured=MEASURED, lost=[])
    assert sorted(path.suffix for path in page.parent.iterdir()) == [".html", ".json", ".png"]
    told = json.loads(page.with_suffix(".json").read_text())
    assert told["measured"] == MEASURED
    assert "50 validation images" in told["order"]


def test_what_was_asked_for_and_not_scored_has_failed(tmp_path: Path) -> None:
    store = LocalStore(tmp_path / "store")
    runs = variants(parse_params({"compare": {"methods": ["full", "freeze_d", "gradual"], "seeds": [1, 2, 3]}}))
    came_through = [run for run in runs if run.method == "full" or (run.method, run.seed) == ("freeze_d", 2)]

    def result(stage: str, name: str, facts: dict[str, object]) -> StageResult:
        out = tmp_path / f"{stage}-{name}"
        out.mkdir()
        np.save(out / "samples.npy", IMAGES)
        document = build_document(stage=stage, params={"name": name}, inputs={}, code={}, libraries={})
        fp = fingerprint(document)
        record = store.publish(stage, fp, out, document=document, seconds=1.0, facts=facts, versions={})
        return StageResult(stage, "ran", fp, 1.0, record)

    trained = {run: result("finetune", run.name, {"moved_parameters": 1, "fixed_parameters": 1}) for run in runs}
    kids = {"full": {"kid_validation": 0.3, "kid": 0.3}, "freeze_d": {"kid_validation": 0.1, "kid": 0.1}}
    scored = {
        run: result("evaluate", run.name, MEASURED | kids[run.method] | {"kid_standard_error": 0.01})
        for run in came_through
    }
    ranking = ranking_of(runs, trained, scored, Context(store))
    assert [(one.method, one.failed) for one in ranking] == [("full", 0), ("freeze_d", 2)]
    assert [one.validation_kid for one in ranking] == [pytest.approx(0.3), pytest.approx(0.1)]
    assert lost_methods(runs, scored) == ["gradual"]
    assert measured_by(scored) == MEASURED
