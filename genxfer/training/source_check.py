"""Whether a loaded model still draws what it drew when it was published: its samples, scored against its own images.

Beside a snapshot lie the features of some images that it was trained on, and the KID of a few of its samples against
them. Before anything is trained from that snapshot, the loaded model draws the same samples and has to score the same.
Knows snapshots and metrics; nothing of stages, and nothing of how weights were loaded.
"""

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from safetensors import SafetensorError
from safetensors.torch import load, save
from torch import Tensor

from genxfer.artifacts.atomic import write_atomic, write_json_atomic
from genxfer.data.dataset import to_uint8
from genxfer.errors import TrainingError
from genxfer.metrics import load_extractor
from genxfer.metrics.estimate import Estimate
from genxfer.models.family import Family, sample
from genxfer.training.config import SCORE_EXTRACTOR, SCORE_METRIC
from genxfer.training.score import score

SCHEMA = 1
FEATURES_FILE = "source_check.safetensors"
SCORE_FILE = "source_check.json"
FEWEST_IMAGES = 3  # that KID takes
MOST_IMAGES = 128  # real ones: the score is compared with itself, so few are enough
SEED = 0
# Equal weights draw from equal noise, so only rounding may move the score: weights rounded to bf16 moved it by 0.6 %,
# or a tenth of its standard error, at most. An untrained VAE differed from a trained one by 15 %, or 2 standard errors;
# any other fault that was tried (a fresh layer, lost BatchNorm statistics, a flipped kernel) by 40 % or more. The usual
# three standard errors would be for samples drawn anew, and would let the untrained VAE pass.
TOLERANCE_SHARE = 0.05
TOLERANCE_STANDARD_ERRORS = 0.5


@dataclass(frozen=True)
class SourceCheck:
    """Features float32 [N D] of real images, and the KID of the model's first samples against them."""

    features: Tensor
    score: Estimate
    samples: int
    seed: int
    extractor: str
    extractor_digest: str  # sha256 of its weights


@dataclass(frozen=True)
class SourceCheckResult:
    """What the check found; `passed` is None where it could not be made, and `reason` says why."""

    passed: bool | None
    reason: str
    kid: float | None = None
    source_kid: float | None = None
    tolerance: float | None = None

    def facts(self) -> dict[str, Any]:
        """Return it as JSON."""
        return asdict(self)

    def __str__(self) -> str:
        """Return one line for people."""
        if self.passed is None:
            return f"left out, because {self.reason}"
        return f"{self.reason}: KID {self.kid:.4f}, then {self.source_kid:.4f}, allowed difference {self.tolerance:.4f}"


def own_score(family: Family, images: Tensor) -> SourceCheck:
    """Return the score of `family`'s samples against uint8 `images` [N C H W] that it was trained on, at most so many.

    Fewer than KID takes are counted repeatedly: the score is compared with itself alone.
    """
    images = images.repeat(-(-FEWEST_IMAGES // len(images)), 1, 1, 1)
    extractor = load_extractor(SCORE_EXTRACTOR)
    features = extractor.features(images[:MOST_IMAGES])
    drawn = to_uint8(sample(family, family.nets.eval(), family.checked_samples, SEED))
    own = score(features, extractor.features(drawn))
    return SourceCheck(features, own, family.checked_samples, SEED, SCORE_EXTRACTOR, extractor.digest)


def check_source(family: Family, check: SourceCheck) -> SourceCheckResult:
    """Return what `family`'s samples score; raises TrainingError when it is not what its source model scored."""
    extractor = load_extractor(check.extractor)
    if extractor.digest != check.extractor_digest:
        return SourceCheckResult(None, f"the weights of the feature extractor {check.extractor!r} are others now")
    drawn = to_uint8(sample(family, family.nets.eval(), check.samples, check.seed))
    kid = score(check.features, extractor.features(drawn)).value
    then, error = check.score.value, check.score.standard_error or 0.0
    allowed = max(TOLERANCE_SHARE * abs(then), TOLERANCE_STANDARD_ERRORS * error)
    if not abs(kid - then) <= allowed:
        raise TrainingError(
            f"The loaded model is not the source model: {check.samples} samples of it score a KID of {kid:.4f} against "
            f"the source images, the source model scored {then:.4f} with the same noise; allowed is a difference of "
            f"{allowed:.4f}. The weights are others than those that were scored, or another version of torch, timm or "
            "genxfer draws or scores otherwise. Make the source model again with this version; if you trust its "
            f"weights, give finetune.init_from a copy of its folder without {FEATURES_FILE} and {SCORE_FILE}."
        )
    return SourceCheckResult(True, "the loaded model scores as the source model did", kid, then, allowed)


def save_check(folder: Path, check: SourceCheck) -> None:
    """Write the check's two files into `folder`."""
    described = {name: value for name, value in vars(check).items() if name not in ("features", "score")}
    score = {"value": check.score.value, "standard_error": check.score.standard_error}
    write_atomic(folder / FEATURES_FILE, save({"features": check.features.contiguous()}, {"format": "pt"}))
    write_json_atomic(folder / SCORE_FILE, {"schema": SCHEMA, SCORE_METRIC: score, **described})


def load_check(features_file: Path, score_file: Path) -> SourceCheck:
    """Read a check's two files; raises TrainingError when they are damaged or from another version."""
    try:
        described: Mapping[str, Any] = json.loads(score_file.read_text())
        if described["schema"] != SCHEMA:
            raise ValueError(f"it has schema {described['schema']!r}, this version reads schema {SCHEMA}")
        return SourceCheck(
            load(features_file.read_bytes())["features"],
            Estimate(**described[SCORE_METRIC]),
            **{name: described[name] for name in ("samples", "seed", "extractor", "extractor_digest")},
        )
    except (SafetensorError, ValueError, KeyError, TypeError) as error:
        raise TrainingError(
            f"{features_file} and {score_file} cannot be read as the check of a source model: {error}. Make the source "
            "model again, or remove both files to train without the check."
        ) from error
