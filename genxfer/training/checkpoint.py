"""Everything needed to continue, in one file that is whole or not there: private to a run.

`checkpoint-<images_seen>.safetensors`: tensors, and in the header's metadata the other state as JSON with the SHA-256
of the content. The last two are kept; on reading, a torn newest one gives way to the one before. Knows nothing of what
the tensors mean.
"""

import hashlib
import json
import logging
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load, save
from torch import Tensor

from genxfer.artifacts.atomic import sweep, write_atomic
from genxfer.training.writing import writing

logger = logging.getLogger("genxfer.training")

KEPT = 2


@dataclass(frozen=True)
class Checkpoint:
    """The state of a run after `images_seen` images: tensors by name on the CPU, and JSON facts."""

    images_seen: int
    tensors: dict[str, Tensor]
    facts: dict[str, Any]


def write_checkpoint(folder: Path, checkpoint: Checkpoint, kept: int = KEPT) -> Path:
    """Write `checkpoint` into `folder`, drop all but the last `kept`; raises StoreError when there is no room.

    Those that stand further on go as well, once it is written: the run has gone back, and must not go on from them.
    """
    path = folder / f"checkpoint-{checkpoint.images_seen:012d}.safetensors"
    content = encode(checkpoint)
    with writing(f"The checkpoint {path}"):
        write_atomic(path, content)
    files = checkpoint_files(folder)
    further_on = [file for file in files if file > path]
    for other in further_on + files[len(further_on) + kept :]:
        other.unlink(missing_ok=True)
    return path


def encode(checkpoint: Checkpoint) -> bytes:
    """Return the content of a checkpoint's file."""
    tensors = {name: tensor.detach().cpu().contiguous() for name, tensor in checkpoint.tensors.items()}
    facts = json.dumps({"images_seen": checkpoint.images_seen, **checkpoint.facts}, sort_keys=True)
    return save(tensors, {"facts": facts, "sha256": _digest(tensors, facts)})


def decode(content: bytes) -> Checkpoint:
    """Return the checkpoint of a file's content; raises ValueError when it does not have the digest in its header."""
    tensors = load(content)
    header_bytes = int.from_bytes(content[:8], "little")
    metadata = json.loads(content[8 : 8 + header_bytes])["__metadata__"]
    if _digest(tensors, metadata["facts"]) != metadata["sha256"]:
        raise ValueError("its SHA-256 is not the one in its header")
    facts = json.loads(metadata["facts"])
    return Checkpoint(facts.pop("images_seen"), tensors, facts)


def read_newest(folder: Path) -> Checkpoint | None:
    """Return the newest checkpoint in `folder` whose content is what was written, or None when there is none.

    Newer ones whose content is damaged are removed then: by their names they would be among the last that are kept.
    """
    if not folder.is_dir():
        return None
    sweep(folder)
    damaged: list[Path] = []
    for path in checkpoint_files(folder):
        try:
            found = decode(path.read_bytes())
        except (OSError, ValueError, KeyError, SafetensorError) as error:
            logger.warning("%s is damaged (%s); going back to the checkpoint before it, if there is one", path, error)
            if not isinstance(error, OSError):  # what could not be read now may be read another time
                damaged.append(path)
            continue
        for other in damaged:
            other.unlink(missing_ok=True)
        return found
    return None


def checkpoint_files(folder: Path) -> list[Path]:
    """Return the checkpoints in `folder`, newest first; their names sort by progress."""
    return sorted(folder.glob("checkpoint-*.safetensors"), reverse=True)


def _digest(tensors: Mapping[str, Tensor], facts: str) -> str:
    """Return the SHA-256 of facts, names, types, shapes and bytes, whatever the order within the file."""
    digest = hashlib.sha256(facts.encode())
    for name, tensor in sorted(tensors.items()):
        digest.update(f"\n{name} {tensor.dtype} {tuple(tensor.shape)}\n".encode())
        digest.update(tensor.reshape(-1).view(torch.uint8).numpy().data)
    return digest.hexdigest()
