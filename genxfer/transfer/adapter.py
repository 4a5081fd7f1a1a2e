"""An adapter on its own: what was learnt beside the source model, in two small files, and how the two become one.

For each adapted weight, two factors whose product is added to it; every other tensor as it was published. Merged with
the very weights that it was learnt on, it is the published snapshot, to the bit and on any machine. Knows nothing of
nets, training or stores.
"""

import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load, save
from torch import Tensor

from genxfer.artifacts.atomic import json_bytes
from genxfer.errors import TrainingError
from genxfer.models.files import ADAPTER_DESCRIPTION_FILE, ADAPTER_FILE

SCHEMA = 3
NEEDED = ("parent", "model", "images_seen", "rank", "alpha", "adapted")
ANOTHER_COPY = "Take another copy of the two files that training wrote."
UP, DOWN = ".up", ".down"  # what is appended to the name of an adapted weight


@dataclass(frozen=True)
class Adapter:
    """Tensors by name, and what adapter.json says: parent, model, images seen, rank, alpha, the layout of each weight.

    Of an adapted weight "w" there are "w.up" [rows R] and "w.down" [R columns]; all other tensors are whole.
    """

    tensors: dict[str, Tensor]
    description: dict[str, Any]

    @property
    def parent(self) -> str | None:
        """The SHA-256 of the weight file that it was learnt on; None when that was never published."""
        digest: str | None = self.description["parent"]
        return digest

    @property
    def model(self) -> dict[str, Any]:
        """The config of the family that was trained: the parent's, save what has no weights, such as sampling steps."""
        config: dict[str, Any] = self.description["model"]
        return config

    @property
    def images_seen(self) -> int:
        """Images that the training which learnt it had seen at the published moment."""
        return int(self.description["images_seen"])

    def files(self) -> dict[str, bytes]:
        """Return the two files by name; equal adapters have equal bytes."""
        return {
            ADAPTER_FILE: save(self.tensors, {"format": "pt"}),
            ADAPTER_DESCRIPTION_FILE: json_bytes(self.description),
        }


def load_adapter(folder: Path) -> Adapter:
    """Read the two files in `folder`; raises TrainingError when they are damaged or from another version."""
    description_file = folder / ADAPTER_DESCRIPTION_FILE
    try:
        description = json.loads(description_file.read_text())
        tensors = load((folder / ADAPTER_FILE).read_bytes())
    except (OSError, SafetensorError, ValueError) as error:
        raise TrainingError(f"{folder} cannot be read as an adapter: {error}") from error
    if not isinstance(description, dict):
        raise TrainingError(
            f"{description_file} holds {type(description).__name__}, not the description of an adapter. {ANOTHER_COPY}"
        )
    if description.get("schema") != SCHEMA:
        raise TrainingError(
            f"{description_file} has schema {description.get('schema')!r}; this version reads schema {SCHEMA}. Train "
            "the adapter again with this version."
        )
    if missing := [name for name in NEEDED if name not in description]:
        raise TrainingError(f"{description_file} does not say {', '.join(missing)}. {ANOTHER_COPY}")
    if missing := [name for name in _factors(description["adapted"]) if name not in tensors]:
        raise TrainingError(
            f"{folder / ADAPTER_FILE} has no {missing[0]}, of which {ADAPTER_DESCRIPTION_FILE} speaks. {ANOTHER_COPY}"
        )
    return Adapter(tensors, description)


def merge_adapter(source_weights: Mapping[str, Tensor], adapter: Adapter) -> dict[str, Tensor]:
    """Return the weights of the published snapshot from those of its parent, by name, to the bit.

    Raises TrainingError when names or shapes are not those of the parent. Whether they are its very weights is the
    caller's to check: `adapter.parent` against the digest of the file.
    """
    adapted, scale = adapter.description["adapted"], adapter.description["alpha"] / adapter.description["rank"]
    factors = _factors(adapted)
    merged = {name: tensor for name, tensor in adapter.tensors.items() if name not in factors}
    # Of what the adapter has whole, the parent may have had nothing: what is fitted, in an older snapshot.
    if strange := (source_weights.keys() - merged.keys() - adapted.keys()) | (adapted.keys() - source_weights.keys()):
        raise TrainingError(
            f"The adapter was not learnt on this model: {len(strange)} tensors are in one of them alone, "
            f"such as {min(strange)}. {_learnt_on(adapter)}"
        )
    for name, layout in adapted.items():
        up, down, weight = adapter.tensors[name + UP], adapter.tensors[name + DOWN], source_weights[name]
        if (len(up), down.shape[1]) != matrix_shape(weight, **layout):
            raise TrainingError(
                f"The adapter was not learnt on this model: {name} is {list(weight.shape)} here, its change is a "
                f"matrix of {len(up)} x {down.shape[1]}. {_learnt_on(adapter)}"
            )
        merged[name] = merged_weight(weight, up, down, scale, **layout)
    return merged


def _factors(adapted: Iterable[str]) -> list[str]:
    return [name + end for name in adapted for end in (UP, DOWN)]


def _learnt_on(adapter: Adapter) -> str:
    if adapter.parent is None:
        return "The weights that it was learnt on, in part new or converted, were never published."
    return f"Its parent's weights have the SHA-256 {adapter.parent}."


def merged_weight(weight: Tensor, up: Tensor, down: Tensor, scale: float, *, transposed: bool) -> Tensor:
    """Return `weight` + scale * up [rows R] @ down [R columns], to the same bits on every machine.

    A matrix product's rounding depends on the library, the processor and its threads; sums taken in one order do not.
    """
    change = torch.zeros(len(up), down.shape[1])
    for column, row in zip(up.T, down, strict=True):
        change += column[:, None] * row
    return weight + scale * as_weight(change, weight, transposed=transposed)


def matrix_shape(weight: Tensor, *, transposed: bool) -> tuple[int, int]:
    """Return rows and columns of `weight` as a matrix: outputs, and all that each sums over.

    Weights are [out in ...], those of a `transposed` convolution [in out ...].
    """
    rows = weight.shape[1 if transposed else 0]
    return rows, weight.numel() // rows


def as_weight(matrix: Tensor, weight: Tensor, *, transposed: bool) -> Tensor:
    """Return `matrix` [rows columns] in the shape of `weight`; the inverse of how `matrix_shape` reads it."""
    if not transposed:
        return matrix.view(weight.shape)
    inputs, outputs, *kernel = weight.shape
    return matrix.view(outputs, inputs, *kernel).transpose(0, 1)
