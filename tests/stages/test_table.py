"""What a stage's fingerprint covers of the code."""

from pathlib import Path

from genxfer.artifacts.store import LocalStore
from genxfer.config import Params
from genxfer.pipeline import Plan
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
