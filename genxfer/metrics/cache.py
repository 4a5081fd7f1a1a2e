"""Features of images, kept between runs: they depend on the images, the extractor and its code, on nothing else.

A safetensors file for each, written whole or not at all and verified when it is read. Knows nothing of what images are
or of what the features are for.
"""

import hashlib
import importlib.metadata
import json
import logging
from collections.abc import Callable
from pathlib import Path

import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor

from genxfer.artifacts.atomic import PendingFile
from genxfer.artifacts.closure import code_digests
from genxfer.artifacts.fingerprint import canonical_json, digest_bytes
from genxfer.metrics import EXTRACTOR_PACKAGES, EXTRACTORS
from genxfer.metrics.features import Extractor

logger = logging.getLogger("genxfer.metrics")


def cached_features(folder: Path, images_digest: str, extractor: Extractor, compute: Callable[[], Tensor]) -> Tensor:
    """Return the features [N D] of the images of that digest: from `folder`, else from `compute`, which are then kept.

    A file that is not what it should be is said aloud and replaced; where none can be written, none is.
    """
    found = find_features(folder, images_digest, extractor)
    if found is None:
        found = compute()
        keep_features(folder, images_digest, extractor, found)
    return found


def find_features(folder: Path, images_digest: str, extractor: Extractor) -> Tensor | None:
    """Return the features [N D] kept of the images of that digest; None without them, or, said aloud, where damaged."""
    key = _key(images_digest, extractor)
    return _read(_path(folder, extractor, key), key)


def keep_features(folder: Path, images_digest: str, extractor: Extractor, features: Tensor) -> None:
    """Keep the `features` [N D] of the images of that digest; where none can be written, it is said."""
    key, features = _key(images_digest, extractor), features.float().contiguous()
    try:
        _write(_path(folder, extractor, key), features, {"key": key, "sha256": _digest(features)})
    except OSError as error:
        logger.warning("The features of these images are not kept for the next time: %s", error)


def _path(folder: Path, extractor: Extractor, key: str) -> Path:
    return folder / f"{extractor.name}-{digest_bytes(key.encode())[:32]}.safetensors"


def _key(images_digest: str, extractor: Extractor) -> str:
    """Return all that the features depend on."""
    packages = ("torch", *EXTRACTOR_PACKAGES[extractor.name])
    return canonical_json(
        {
            "images": images_digest,
            "weights": extractor.digest,
            "device": extractor.device.type,
            "packages": {name: importlib.metadata.version(name) for name in packages},
            "code": code_digests([EXTRACTORS[extractor.name]], registries=["genxfer.metrics:EXTRACTORS"]),
        }
    )


def _write(path: Path, features: Tensor, metadata: dict[str, str]) -> None:
    """Write a safetensors file as its specification has it; the library's `save` would take twice the memory again."""
    content = _content(features)
    entry = {"dtype": "F32", "shape": list(features.shape), "data_offsets": [0, content.nbytes]}
    header = json.dumps({"__metadata__": metadata, "features": entry}).encode()
    header += b" " * (-len(header) % 8)  # what follows is aligned
    with PendingFile(path.parent) as pending:
        pending.write(len(header).to_bytes(8, "little") + header)
        pending.write(content)
        pending.seal()
        pending.commit(path)


def _read(path: Path, key: str) -> Tensor | None:
    """Return the features in `path`, None when it is not there or not whole."""
    if not path.exists():
        return None
    try:
        with safe_open(path, "pt") as file:
            stored, features = file.metadata() or {}, file.get_tensor("features")
    except (SafetensorError, OSError) as error:
        logger.warning("%s cannot be read and is made again: %s", path, error)
        return None
    if stored.get("key") != key or stored.get("sha256") != _digest(features):
        logger.warning("%s is damaged and is made again.", path)
        return None
    return features


def _digest(features: Tensor) -> str:
    shape = json.dumps([str(features.dtype), list(features.shape)])
    digest = hashlib.sha256(shape.encode())
    digest.update(_content(features.contiguous()))
    return digest.hexdigest()


def _content(features: Tensor) -> memoryview:
    """Return the bytes of contiguous `features` as they lie in memory."""
    return memoryview(features.view(torch.uint8).numpy().data).cast("B")
