"""What a stage's fingerprint covers of the code."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from genxfer.artifacts.store import LocalStore
from genxfer.config import Params
from genxfer.data.export import png
from genxfer.pipeline import Context, Plan, run_stage
from genxfer.stages import STAGES


def code_of(stage: str, store: Path) -> set[str]:
    return set(Plan(STAGES, Params(), LocalStore(store)).document(STAGES[stage], {})["code"])


def test_training_counts_the_metric_of_its_check_and_no_other(tmp_path: Path) -> None:
    """A metric that is added, or another one that changes, must not train anything anew."""
    for stage in ("pretrain", "finetune", "baseline"):
        metrics = {symbol for symbol in code_of(stage, tmp_path) if symbol.startswith("genxfer.metrics")}
        assert {"genxfer.metrics.kid:kid", "genxfer.metrics.lite0:Lite0"} <= metrics
        assert not {symbol for symbol in metrics if "fid" in symbol or symbol.endswith((":METRICS", ":EXTRACTORS"))}


def test_registering_counts_the_code_that_travels_with_the_model(tmp_path: Path) -> None:
    """It is copied, not imported; a version that was made before it changed would serve the old code for ever."""
    travelling = {"genxfer.registry.served:ServedModel", "genxfer.registry.sampler:SnapshotSampler"}
    assert travelling | {"genxfer.report.grid:encode_png"} <= code_of("register", tmp_path)


def domain(name: str, source: dict[str, Any], **more: Any) -> dict[str, Any]:
    return STAGES[f"dataset_{name}"].parameters(Params.model_validate({"dataset": {name: source, **more}}))


@pytest.mark.parametrize(
    ("source", "moved"),
    [
        ({"kind": "folder", "path": "a", "glob": "*.png"}, {"path": "b"}),
        ({"kind": "archive", "path": "a.zip"}, {"path": "b.zip"}),
        ({"kind": "torchvision", "name": "MNIST", "download": True}, {"root": "elsewhere", "download": False}),
    ],
)
def test_where_images_lie_and_how_they_came_there_decides_no_pixel(
    source: dict[str, Any], moved: dict[str, Any]
) -> None:
    assert domain("source", source) == domain("source", source | moved, max_rejects=3, max_shared=3)
    target = {"kind": "folder", "path": "t", "n_train": 3}
    assert domain("target", target | {"heldout": source}) == domain("target", target | {"heldout": source | moved})
    key, other = {"folder": ("glob", "*.jpg"), "archive": ("glob", "*.jpg"), "torchvision": ("split", "test")}[
        source["kind"]
    ]
    assert domain("source", source) != domain("source", source | {key: other})
    assert domain("target", target | {"heldout": source}) != domain(
        "target", target | {"heldout": source | {key: other}}
    )


def test_a_folder_of_another_name_is_not_packed_again_and_one_with_another_file_name_is(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "a").mkdir()
    (tmp_path / "a" / "one.png").write_bytes(png(np.zeros((8, 8), np.uint8)))

    def packed(path: str) -> str:
        params = Params.model_validate({"dataset": {"source": {"kind": "folder", "path": path}}})
        return run_stage(STAGES, "dataset_source", params, Context(LocalStore(tmp_path / "store"))).state

    assert packed("a") == "ran"
    (tmp_path / "a").rename(tmp_path / "b")
    assert packed("b") == "cached"
    (tmp_path / "b" / "one.png").rename(tmp_path / "b" / "two.png")
    assert packed("b") == "ran"
