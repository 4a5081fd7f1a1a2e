"""What a training run publishes: weights (safetensors) and what they are (JSON), in two files.

The averaged weights of the sampling nets and the latest ones of the others, all of one moment: the last, or the one
that scored best on validation images. So a new run can start from nets that have met each other, and a user can draw
samples. `images_seen` is what that moment had seen. Equal runs write equal bytes. Knows nothing of optimizers, stores
or the registry.
"""

import hashlib
import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from safetensors import SafetensorError
from safetensors.torch import load, save
from torch import Tensor

from genxfer.artifacts.atomic import write_atomic, write_json_atomic
from genxfer.errors import TrainingError
from genxfer.models.config import family_config
from genxfer.models.family import Family, ImageShape, build_family
from genxfer.models.files import DESCRIPTION_FILE, WEIGHTS_FILE
from genxfer.transfer.load import compare

SCHEMA = 1
NEEDED = {"model": dict, "channels": int, "resolution_px": int, "images_seen": int}  # to build the nets, and count on


@dataclass(frozen=True)
class Snapshot:
    """Weights by name ("generator.blocks.0.weight"), what snapshot.json says of them, and the weight file's SHA-256."""

    weights: dict[str, Tensor]
    description: dict[str, Any]
    digest: str

    @property
    def images_seen(self) -> int:
        """Images that the run which made it had seen."""
        return int(self.description["images_seen"])


def save_snapshot(folder: Path, family: Family, *, images_seen: int, parent: Snapshot | None) -> None:
    """Write the present weights of the family's nets into `folder`, with `parent` as where they came from."""
    weights = {name: tensor.detach().cpu().contiguous() for name, tensor in family.nets.state_dict().items()}
    description = {
        "schema": SCHEMA,
        "family": family.config.family,
        "model": family.config.model_dump(mode="json"),
        "channels": family.shape.channels,
        "resolution_px": family.shape.resolution_px,
        "sampling_nets": list(family.sampling_nets),
        "images_seen": images_seen,
        "kimg": images_seen / 1000,
        "parent": None if parent is None else {"sha256": parent.digest, "images_seen": parent.images_seen},
    }
    # One entry only: the order of several in the file's header is not fixed.
    write_atomic(folder / WEIGHTS_FILE, save(weights, {"format": "pt"}))
    write_json_atomic(folder / DESCRIPTION_FILE, description)


def load_snapshot(weights_file: Path, description_file: Path) -> Snapshot:
    """Read a snapshot's two files; raises TrainingError when they are damaged or from another version."""
    data = weights_file.read_bytes()
    try:
        weights, description = load(data), json.loads(description_file.read_text())
    except (SafetensorError, ValueError) as error:
        raise TrainingError(f"{weights_file} and {description_file} cannot be read as a snapshot: {error}") from error
    if not isinstance(description, dict):
        raise TrainingError(f"{description_file} holds a {type(description).__name__}, not a snapshot's description.")
    if description.get("schema") != SCHEMA:
        raise TrainingError(
            f"{description_file} has schema {description.get('schema')!r}; this version reads schema {SCHEMA}. "
            "Make the snapshot again with this version."
        )
    if wrong := [name for name, kind in NEEDED.items() if not isinstance(description.get(name), kind)]:
        raise TrainingError(
            f"{description_file} does not say what the weights are; missing or of another type: {', '.join(wrong)}. "
            "It is not what genxfer wrote: take the one that was written with the weights."
        )
    return Snapshot(weights, description, hashlib.sha256(data).hexdigest())


def load_into(family: Family, snapshot: Snapshot) -> None:
    """Copy weights that fit exactly into the family's nets; raises TrainingError that lists every name that does not.

    For what has to be the same model. A model that only resembles it starts with `genxfer.transfer.load.take_over`.
    """
    comparison = compare(family, snapshot.weights)
    if not comparison.exact:
        source, config = snapshot.description, family.config
        problems = "\n".join(comparison.misfits())
        raise TrainingError(
            f"The snapshot does not fit this model. It holds {source.get('family')!r} for {source.get('channels')} x "
            f"{source.get('resolution_px')} px images, this is {config.family!r} for {family.shape.channels} x "
            f"{family.shape.resolution_px} px.\n{problems}\nUse the same `model` and `dataset.resolution_px`, "
            "`dataset.channels` for both."
        )
    family.nets.load_state_dict(
        family.nets.state_dict() | {name: snapshot.weights[name] for name in comparison.matched}
    )


def family_of(snapshot: Snapshot) -> Family:
    """Return the family that the snapshot describes, with its weights, in eval mode and ready to draw samples."""
    shape = ImageShape(snapshot.description["channels"], snapshot.description["resolution_px"])
    family = build_family(family_config(snapshot.description["model"]), shape)
    load_into(family, snapshot)
    family.nets.eval().requires_grad_(False)
    return family
