"""What the stage `evaluate` depends on through its metrics and its extractor, and how it lays its numbers out."""

from pathlib import Path

import pytest

from genxfer.config import Params
from genxfer.errors import DataError, ParameterError
from genxfer.metrics.estimate import Estimate, Measurement, Pair
from genxfer.metrics.weights import VARIABLE
from genxfer.stages import STAGES
from genxfer.stages.doors import preflight
from genxfer.stages.evaluation import _closest, _numbers


def params(**evaluate: object) -> Params:
    return Params.model_validate({"evaluate": evaluate})


def depends(found: Params) -> tuple[object, object]:
    stage = STAGES["evaluate"]
    return stage.raw(found), stage.parameters(found)


def test_what_is_in_the_weights_counts_and_not_where_they_lie(tmp_path: Path) -> None:
    for name, content in (("a.pth", b"one"), ("b.pth", b"one"), ("c.pth", b"two")):
        (tmp_path / name).write_bytes(content)
    a, b, c = (
        depends(params(extractor="dinov2", extractor_weights=str(tmp_path / f"{name}.pth"))) for name in ("a", "b", "c")
    )
    assert a == b
    assert a != c


def test_missing_weights_are_told_before_anything_is_trained(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("GENXFER_CACHE", str(tmp_path))
    monkeypatch.delenv(VARIABLE, raising=False)
    with pytest.raises(ParameterError, match="never downloaded unasked"):
        preflight(params(extractor="inception"))
    with pytest.raises(DataError, match="which is no file"):
        preflight(params(extractor="dinov2", extractor_weights=str(tmp_path / "none.pth")))


def test_only_the_metrics_asked_for_are_part_of_the_code() -> None:
    code = STAGES["evaluate"].code(params(metrics=["kid", "memorization"]))
    assert "genxfer.metrics.memorization:memorization" in code
    assert "genxfer.metrics.fid:fid" not in code


def measured(kid: float, share: float) -> Measurement:
    return Measurement(
        {"kid": Estimate(kid, 0.01), "memorization": Estimate(share)},
        {"memorization_heldout": 0.3},
        {"memorization": {"passed": share < 0.5}},
        ("few images",),
        (Pair(4, 2, 0.5, 1.5),),
    )


def test_the_numbers_of_all_models_stand_side_by_side_and_yardsticks_and_notes_once() -> None:
    scores = {"source": measured(0.9, 0.1), "scratch": measured(0.6, 0.9), "transferred": measured(0.2, 0.2)}
    assert _numbers(scores) == {
        "kid": 0.2,
        "kid_standard_error": 0.01,
        "memorization": 0.2,
        "memorization_passed": True,
        "kid_scratch": 0.6,
        "kid_scratch_standard_error": 0.01,
        "memorization_scratch": 0.9,
        "memorization_scratch_passed": False,
        "kid_source": 0.9,
        "kid_source_standard_error": 0.01,
        "memorization_source": 0.1,
        "memorization_source_passed": True,
        "memorization_heldout": 0.3,
        "transfer_gain": pytest.approx(3.0),
        "notes": ["few images"],
    }
    assert _closest(scores)["scratch"] == [{"sample": 4, "train": 2, "distance": 0.5, "spacing": 1.5}]
