"""The records of a store on S3: put last and on condition, looked at with all that they name.

Stands between the store and its bucket; knows nothing of stages but their names.
"""

import logging
from collections.abc import Iterator
from dataclasses import dataclass

from genxfer.artifacts.record import Record, record_to_keep
from genxfer.artifacts.s3_client import Bucket
from genxfer.artifacts.s3_objects import ObjectsOnS3
from genxfer.errors import StoreError

PUT_ATTEMPTS = 5

logger = logging.getLogger("genxfer.artifacts")


@dataclass(frozen=True)
class Found:
    """What lies under a record's key: a usable record, or why it is not usable; with its ETag, None for nothing."""

    record: Record | None = None
    flaw: str | None = None
    etag: str | None = None


class RecordsOnS3:
    """The records of a bucket, by stage and fingerprint. Raises boto3's errors."""

    def __init__(self, bucket: Bucket, objects: ObjectsOnS3) -> None:
        self._bucket = bucket
        self._objects = objects

    def look(self, stage: str, fp: str) -> Found:
        """Return what lies where the record should be."""
        key = _key(stage, fp)
        content = self._bucket.get(key)
        if content is None:
            return Found()
        record, flaw = _parsed(content.data, stage, fp)
        if record is None:
            return Found(flaw=f"its record {self._bucket.location}/{key} {flaw}", etag=content.etag)
        flaws = self._objects.flaws(record.outputs.values())
        for name, ref in record.outputs.items():
            if ref in flaws:
                return Found(flaw=f"its output {name!r}, object {ref.digest}, {flaws[ref]}", etag=content.etag)
        return Found(record, etag=content.etag)

    def put(self, data: bytes, found: Found, replaces: Record | None) -> Record:
        """Put the record `data` in the place of `found`; return the valid one that somebody else put there first."""
        record = Record.from_json(data)  # what any later look finds, with lists for tuples
        for _ in range(PUT_ATTEMPTS):
            if self._bucket.put(_key(record.stage, record.fingerprint), data, replaces=found.etag) is not None:
                return record
            found = self.look(record.stage, record.fingerprint)
            if found.record is not None and found.record != replaces:
                return found.record
        raise StoreError(
            f"The record of stage {record.stage!r} in {self._bucket.location} is being written by others all the "
            "time. Run again."
        )

    def stages(self) -> list[str]:
        """Return the names of the stages that have records."""
        return sorted(self._bucket.folders("records"))

    def of_stage(self, stage: str) -> list[Record]:
        """Return the stage's records, newest first; unreadable ones are skipped."""
        found = []
        for key, data in self._contents(f"records/{stage}"):
            try:
                found.append(Record.from_json(data))
            except ValueError as error:
                logger.debug("record %s skipped: %s", key, error)
        return sorted(found, key=lambda record: (record.created, record.fingerprint), reverse=True)

    def all(self) -> list[Record]:
        """Return the records of all stages; raises StoreError when one cannot be read, unless it is torn."""
        found = [
            record_to_keep(data, f"{self._bucket.location}/{key}")
            for key, data in self._contents("records")
            if key.endswith(".json")
        ]
        return [record for record in found if record is not None]

    def _contents(self, folder: str) -> Iterator[tuple[str, bytes]]:
        """Yield key and content of everything in `folder`, but what goes just now."""
        keys = [entry.key for entry in self._bucket.listed(folder)]
        for key, content in zip(keys, self._bucket.in_parallel(self._bucket.get, keys), strict=True):
            if content is not None:
                yield key, content.data

    def remove(self, record: Record) -> None:
        """Remove the record, unless another has taken its place."""
        key = _key(record.stage, record.fingerprint)
        content = self._bucket.get(key)
        if content is not None and _parsed(content.data, record.stage, record.fingerprint)[0] == record:
            self._bucket.delete(key, content.etag)


def _parsed(data: bytes, stage: str, fp: str) -> tuple[Record | None, str]:
    """Return the record, or None and what is wrong with it."""
    try:
        record = Record.from_json(data)
    except ValueError as error:
        return None, f"is damaged ({error})"
    if (record.stage, record.fingerprint) != (stage, fp):
        return None, f"is that of {record.stage} {record.fingerprint}"
    return record, ""


def _key(stage: str, fp: str) -> str:
    return f"records/{stage}/{fp}.json"
