"""Which layer groups of which net stay fixed, and for how long: data only, read without importing torch.

The section `finetune` of params.yaml becomes a FreezePolicy here; `freeze.py` applies it to nets, the engine asks it
at every step. Layer groups are counted from the image side, as in FreezeD (Mo et al. 2020). Knows nothing of nets.
"""

from collections.abc import Mapping, Sequence
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field, NonNegativeInt

from genxfer.errors import ParameterError, TrainingError, nearest

Method = Literal["full", "freeze"]

METHODS: dict[Method, str] = {
    "full": "every parameter moves",
    "freeze": "the layer groups that finetune.freeze counts stay fixed, the others move",
}


class FreezePolicy(BaseModel):
    """The number of layer groups of each net that stay fixed, counted from the image side, and when they thaw."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    groups: dict[str, NonNegativeInt] = Field(default={}, description="Layer groups of each net that stay fixed.")
    thaw_every_kimg: float | None = Field(
        default=None, gt=0, description="A fixed group starts to move every so many kimg; empty: none ever does."
    )


def frozen_counts(policy: FreezePolicy, images_seen: int) -> dict[str, int]:
    """Return how many layer groups of each net are fixed once `images_seen` images were seen.

    The group nearest to the moving part thaws first, in all nets at once: it fits what has already moved best.
    """
    every_images = max(round((policy.thaw_every_kimg or 0) * 1000), 1)
    thawed = images_seen // every_images if policy.thaw_every_kimg else 0
    return {net: count - thawed for net, count in policy.groups.items() if count > thawed}


def check_policy(policy: FreezePolicy, layer_groups: Mapping[str, Sequence[str]]) -> None:
    """Raise ParameterError unless `policy` fits nets with these layer-group names and leaves something to move."""
    groups = policy.groups
    for net, count in groups.items():
        if net not in layer_groups:
            known = ", ".join(layer_groups)
            raise ParameterError(
                f"finetune.freeze.{net} is {count}, but this family has no net {net!r}; "
                f"its nets: {known}.{nearest(net, layer_groups)}"
            )
        names = layer_groups[net]
        if count > len(names):
            raise ParameterError(
                f"finetune.freeze.{net} is {count}; allowed: 0 to {len(names)} "
                f"(the layer groups from the image side: {', '.join(names)})."
            )
    if all(groups.get(net, 0) == len(names) for net, names in layer_groups.items()):
        raise ParameterError(
            f"finetune.freeze is {dict(groups)}: nothing is left to move. Let at least one layer group move."
        )


def check_family(family: str, source: Mapping[str, Any]) -> None:
    """Raise TrainingError when the source model that snapshot.json describes as `source` is not of `family`."""
    if source.get("family") != family:
        raise TrainingError(
            f"The source model is of the family {source.get('family')!r}, model.family is {family!r}: the weights of "
            f"one mean nothing to the other. Set model.family={source.get('family')}, or start from a snapshot of the "
            f"family {family!r}."
        )
