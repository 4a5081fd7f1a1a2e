"""What the store remembers of one finished stage: which outputs, from what, when, and how long it took.

Records are JSON made for people too (`genxfer explain`, `genxfer plan`). Knows nothing of where they lie.
"""

import json
import logging
import re
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from datetime import datetime
from pathlib import Path, PurePosixPath
from typing import Any, NoReturn

from genxfer.artifacts.atomic import json_bytes
from genxfer.artifacts.fingerprint import canonical_json, fingerprint
from genxfer.errors import StoreError

# Beside exported outputs, and in the folder of unfinished work: the document that they depend on.
DOCUMENT = "fingerprint.json"

_DIGEST = re.compile(r"[0-9a-f]{64}")

logger = logging.getLogger("genxfer.artifacts")


@dataclass(frozen=True)
class ObjectRef:
    """An immutable file, named by the sha256 of its content."""

    digest: str
    size_bytes: int


@dataclass(frozen=True)
class StoredObject:
    """An object that lies in a store."""

    ref: ObjectRef
    age_s: float  # since it came


@dataclass(frozen=True)
class UnfinishedWork:
    """What a stage that has not finished left on this machine."""

    stage: str
    fingerprint: str
    folder: Path
    size_bytes: int
    age_s: float  # since anything in it changed


@dataclass(frozen=True)
class Record:
    """A finished stage: its fingerprint, the document behind it, and its outputs by relative path."""

    stage: str
    fingerprint: str
    document: dict[str, Any]
    outputs: dict[str, ObjectRef]
    seconds: float
    created: str  # UTC, ISO 8601 with microseconds, so that text order is time order
    versions: dict[str, str]
    facts: dict[str, Any]  # small JSON facts of the run itself, such as images per second

    def to_json(self) -> bytes:
        """Return the record as JSON; raises TypeError, naming the place, on what JSON cannot hold."""
        content = asdict(self)
        canonical_json(content)
        return json_bytes(content)

    @classmethod
    def from_json(cls, data: bytes) -> "Record":
        """Return the record in `data`; raises ValueError when it is torn, incomplete, altered or unsafe to follow."""
        try:
            content = json.loads(data, parse_constant=_refuse_constant)
            outputs = {name: _object_ref(name, entry) for name, entry in content.pop("outputs").items()}
            record = cls(**content, outputs=outputs)
            document_fingerprint = fingerprint(record.document)
        except (AttributeError, KeyError, TypeError) as error:
            raise ValueError(f"not a record: {error}") from error
        if document_fingerprint != record.fingerprint:
            raise ValueError("its document does not have the fingerprint it claims")
        return record


def record_to_keep(data: bytes, place: str) -> Record | None:
    """Return the record in `data`, None when it is torn, as `place` says aloud.

    Raises StoreError when it says something that cannot be read here: what it names must not be taken for unused.
    """
    try:
        record = Record.from_json(data)
        if not isinstance(record.document.get("inputs"), dict) or datetime.fromisoformat(record.created).tzinfo is None:
            raise ValueError("it does not say what it was made from, or when")
    except (json.JSONDecodeError, UnicodeDecodeError):
        logger.warning("the record %s is torn: it counts as none", place)
        return None
    except (ValueError, TypeError, AttributeError) as error:
        raise StoreError(
            f"The record {place} cannot be read ({error}), so nobody can say which objects are unused, and none "
            "may be removed. Use the version of genxfer that wrote it, or remove the record if it is damaged."
        ) from error
    return record


def _refuse_constant(name: str) -> NoReturn:
    raise ValueError(f"{name} is not a number")


def _object_ref(name: str, entry: Mapping[str, Any]) -> ObjectRef:
    path = PurePosixPath(name)
    if path.is_absolute() or ".." in path.parts or not path.parts:
        raise ValueError(f"the output name {name!r} leads out of its folder")
    ref = ObjectRef(**entry)
    if not _DIGEST.fullmatch(ref.digest) or not isinstance(ref.size_bytes, int):
        raise ValueError(f"the output {name!r} has no proper digest and size")
    return ref
