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
