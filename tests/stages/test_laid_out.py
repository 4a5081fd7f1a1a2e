"""What a comparison lays out in the working folder, beyond the stages that it is made of."""

import json
from pathlib import Path

import numpy as np
import pytest

from genxfer.artifacts.fingerprint import build_document, fingerprint
from genxfer.artifacts.store import LocalStore
from genxfer.config import Params
from genxfer.errors import StoreError
from genxfer.pipeline import Context, StageResult
from genxfer.report.comparison import Trial, rank
from genxfer.stages.comparison import save_comparison

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
