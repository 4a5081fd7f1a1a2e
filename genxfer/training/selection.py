"""Which moment of a run is published: the one whose averaged nets scored best on the validation images.

Part of the state, and so of every checkpoint: scores, and the weights of the best moment. These are the averaged
weights of the sampling nets, and with them the latest weights of all others *of that same moment*: a later transfer
starts from nets that have met each other. Knows nothing of how a score comes about.
"""

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from torch import Tensor


@dataclass(frozen=True)
class Scored:
    """A moment of a run and its validation KID; lower is better, NaN is a model that draws no images."""

    images_seen: int
    kid: float

    def beats(self, other: "Scored | None") -> bool:
        """Return whether it is better; NaN never is."""
        return math.isfinite(self.kid) and (other is None or self.kid < other.kid)


class Selection:
    """The best moment so far, with its weights on the processor, and the last one that was scored."""

    def __init__(self) -> None:
        self.best: Scored | None = None
        self.last: Scored | None = None
        self.weights: dict[str, Tensor] = {}
        self.without_improvement = 0  # validations since the best one

    def add(self, scored: Scored, weights: Mapping[str, Tensor]) -> None:
        """Take note of a score, and keep a copy of `weights` where it is the best."""
        self.last = scored
        if scored.beats(self.best):
            self.best, self.without_improvement = scored, 0
            self.weights = {name: tensor.detach().to("cpu", copy=True) for name, tensor in weights.items()}
        else:
            self.without_improvement += 1

    def exhausted(self, patience: int | None) -> bool:
        """Return whether there were `patience` validations in a row without improvement; None has patience for ever."""
        return patience is not None and self.without_improvement >= patience

    def facts(self) -> dict[str, Any]:
        """Return all but the weights as JSON; a score that is no number is None there."""
        return {
            "best": _facts(self.best),
            "last": _facts(self.last),
            "without_improvement": self.without_improvement,
        }

    def result(self) -> dict[str, float | None]:
        """Return what the facts of a run say: the best moment and its score, and the last score."""
        best, last = self.best, self.last
        return {
            "best_kimg": best.images_seen / 1000 if best else None,
            "best_validation_kid": best.kid if best else None,
            "final_validation_kid": last.kid if last and math.isfinite(last.kid) else None,
        }

    def restore(self, weights: Mapping[str, Tensor], facts: Mapping[str, Any]) -> None:
        """Take over the `weights` and what `facts` returned."""
        self.best, self.last = _scored(facts["best"]), _scored(facts["last"])
        self.without_improvement = facts["without_improvement"]
        self.weights = dict(weights)


def _facts(scored: Scored | None) -> dict[str, Any] | None:
    if scored is None:
        return None
    return {"images_seen": scored.images_seen, "kid": scored.kid if math.isfinite(scored.kid) else None}


def _scored(facts: Mapping[str, Any] | None) -> Scored | None:
    if facts is None:
        return None
    return Scored(facts["images_seen"], math.nan if facts["kid"] is None else facts["kid"])
