"""What a training run publishes: weights (safetensors) and what they are (JSON), in two files.

The averaged weights of the sampling nets and the latest ones of the others, so that a new run can start from all of
them and a user can draw samples. Equal runs write equal bytes. Knows nothing of optimizers, stores or the registry.
"""

import hashlib
import json
from collections.abc import Iterable, Mapping
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

SCHEMA = 1
WEIGHTS_FILE = "snapshot.safetensors"
DESCRIPTION_FILE = "snapshot.json"
LISTED_NAMES = 6  # of a long list of names in a message


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
    if description.get("schema") != SCHEMA:
        raise TrainingError(
            f"{description_file} has schema {description.get('schema')!r}; this version reads schema {SCHEMA}. "
            "Make the snapshot again with this version."
        )
    return Snapshot(weights, description, hashlib.sha256(data).hexdigest())


def load_into(family: Family, snapshot: Snapshot, new_groups: tuple[str, ...] = ()) -> None:
    """Copy the weights into the family's nets; raises TrainingError that lists every name that does not fit.

    `new_groups`, such as "generator.miner", may be missing in the snapshot, and then keep the weights they have.
    """
    shapes = {name: tuple(tensor.shape) for name, tensor in family.nets.state_dict().items()}
    given = {name: tuple(tensor.shape) for name, tensor in snapshot.weights.items()}
    prefixes = tuple(f"{group}." for group in new_groups)
    wanted = {name: shape for name, shape in shapes.items() if name in given or not name.startswith(prefixes)}
    problems = _problems(wanted, given)
    if problems:
        source, config = snapshot.description, family.config
        raise TrainingError(
            f"The snapshot does not fit this model. It holds {source.get('family')!r} for {source.get('channels')} x "
            f"{source.get('resolution_px')} px images, this is {config.family!r} for {family.shape.channels} x "
            f"{family.shape.resolution_px} px.\n{problems}\nUse the same `model` and `dataset.resolution_px`, "
            "`dataset.channels` for pretraining and fine-tuning."
        )
    family.nets.load_state_dict(snapshot.weights, strict=False)


def family_of(snapshot: Snapshot) -> Family:
    """Return the family that the snapshot describes, with its weights, in eval mode and ready to draw samples."""
    shape = ImageShape(snapshot.description["channels"], snapshot.description["resolution_px"])
    family = build_family(family_config(snapshot.description["model"]), shape)
    load_into(family, snapshot)
    family.nets.eval().requires_grad_(False)
    return family


def _problems(wanted: Mapping[str, tuple[int, ...]], given: Mapping[str, tuple[int, ...]]) -> str:
    """Return one line for each kind of misfit, or an empty string."""
    mismatched = [
        f"{name} (snapshot {list(given[name])}, model {list(wanted[name])})"
        for name in wanted
        if name in given and given[name] != wanted[name]
    ]
    kinds = {
        "missing in the snapshot": [name for name in wanted if name not in given],
        "unknown to the model": [name for name in given if name not in wanted],
        "of another shape": mismatched,
    }
    return "\n".join(f"  {len(names)} {kind}: {_listed(names)}" for kind, names in kinds.items() if names)


def _listed(names: Iterable[str]) -> str:
    names = list(names)
    more = f", and {len(names) - LISTED_NAMES} more" if len(names) > LISTED_NAMES else ""
    return ", ".join(names[:LISTED_NAMES]) + more
