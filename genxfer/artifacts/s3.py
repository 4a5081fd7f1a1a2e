"""The store on S3: objects by content, records by fingerprint, leases; unfinished work and a cache stay local.

    objects/ab/cdef...              immutable files, named by their sha256
    records/<stage>/<fp>.json       put last, on condition that no other is there: who loses adopts the winner's
    locks/<stage>/<fp>.json         the lease of whoever works on it

and on this machine

    <cache>/objects/ab/cdef...      what was read or published (`s3_cache.py`); GENXFER_CACHE
    <work>/<stage>/<fp>/            checkpoints of a run that has not finished; GENXFER_WORK

Any number of hosts may share it. To resume another host's unfinished work, share the folder of work as well. Knows
nothing of what a stage does; boto3 is spoken to in `s3_client.py`.
"""

import contextlib
import logging
import os
import platform
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack
from datetime import UTC, datetime
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from genxfer.artifacts.disk import WorkOnDisk, advice, explaining, export_outputs
from genxfer.artifacts.fingerprint import fingerprint
from genxfer.artifacts.lock import exclusive
from genxfer.artifacts.record import ObjectRef, Record, StoredObject
from genxfer.artifacts.s3_cache import ObjectCache, parse_bytes
from genxfer.artifacts.s3_client import Bucket
from genxfer.artifacts.s3_errors import explaining as explaining_s3
from genxfer.artifacts.s3_lease import LEASE_S, holder_of, leased
from genxfer.artifacts.s3_objects import ObjectsOnS3
from genxfer.artifacts.s3_records import RecordsOnS3

DEFAULT_CACHE = ".genxfer/cache"
DEFAULT_CACHE_BYTES = "20GB"
DEFAULT_WORK = ".genxfer/work"

logger = logging.getLogger("genxfer.artifacts")


class S3Store(WorkOnDisk):
    """See `store.Store` for what each method promises."""

    def __init__(self, location: str, cache: ObjectCache, work: Path, lease_s: float = LEASE_S) -> None:
        super().__init__(work, work, "GENXFER_WORK")
        self.bucket = Bucket(location)
        self.location = self.bucket.location
        self.cache = cache
        self._objects = ObjectsOnS3(self.bucket, cache)
        self._records = RecordsOnS3(self.bucket, self._objects)
        self._lease_s = lease_s

    @classmethod
    def from_environment(cls, location: str) -> "S3Store":
        """Return the store at s3://bucket/prefix, with the local folders that the environment names."""

        def folder(variable: str, default: str) -> Path:
            return Path(os.environ.get(variable) or default).expanduser().absolute()

        limit_bytes = parse_bytes(os.environ.get("GENXFER_CACHE_BYTES") or DEFAULT_CACHE_BYTES)
        cache = ObjectCache(folder("GENXFER_CACHE", DEFAULT_CACHE), limit_bytes)
        return cls(location, cache, folder("GENXFER_WORK", DEFAULT_WORK))

    @property
    def identity(self) -> str:
        """What tells this store from others: many endpoints have a bucket of that name, many machines a localhost."""
        endpoint = self.bucket.endpoint() or ""
        host = urlsplit(endpoint).hostname or "localhost"
        own = f" on {platform.node()}" if host in ("localhost", "::1") or host.startswith("127.") else ""
        return f"{self.location} at {endpoint}{own}"

    def find(self, stage: str, fp: str) -> Record | None:
        """Return the record if it and all its objects are there; otherwise None, with a warning if it should be."""
        with self._explaining(f"Stage {stage!r} could not be looked up"):
            found = self._records.look(stage, fp)
        if found.flaw is not None:
            logger.warning("%s must run again: %s", stage, found.flaw)
        return found.record

    def publish(
        self,
        stage: str,
        fp: str,
        out_dir: Path,
        *,
        document: Mapping[str, Any],
        seconds: float,
        facts: Mapping[str, Any],
        versions: Mapping[str, str],
        replaces: Record | None = None,
    ) -> Record:
        """Keep all files under `out_dir` as outputs of `fp`; a valid record there wins, except `replaces`.

        Raises StoreError, with no record written, when something is full, refused or out of reach; ValueError when
        `document` does not have the fingerprint `fp`.
        """
        if fingerprint(document) != fp:
            raise ValueError(f"stage {stage!r}: the document does not have the fingerprint {fp}")
        with self._explaining(f"The outputs of stage {stage!r} could not be published"):
            found = self._records.look(stage, fp)
            if found.record is not None and found.record != replaces:
                return found.record
            files = sorted(path for path in out_dir.rglob("*") if path.is_file())
            record = Record(
                stage=stage,
                fingerprint=fp,
                document=dict(document),
                outputs={path.relative_to(out_dir).as_posix(): self.cache.add(path) for path in files},
                seconds=seconds,
                created=datetime.now(UTC).isoformat(timespec="microseconds"),
                versions=dict(versions),
                facts=dict(facts),
            )
            data = record.to_json()  # which refuses what JSON cannot hold, before anything is uploaded
            self._objects.upload(record.outputs.values())
            published = self._records.put(data, found, replaces)
            if published.outputs == record.outputs:
                # Again, what is no longer there: who removed unused objects may not have known of the record yet.
                self._objects.upload(record.outputs.values())
            return published

    def read(self, ref: ObjectRef) -> Path:
        """Return the path of a verified object, to be read only; a damaged one is moved aside and raises StoreError."""
        with self._explaining(f"Object {ref.digest} could not be read"):
            return self.cache.find(ref) or self._objects.fetch(ref, lambda: self._advice(ref))

    def export(self, record: Record, folder: Path, names: Sequence[str] | None = None) -> None:
        """Copy the outputs `names` (all by default) into `folder`, each atomically; equal files are left alone."""
        export_outputs(self.read, record, folder, names)

    @contextlib.contextmanager
    def lock(self, stage: str, fp: str, on_wait: Callable[[], None] | None = None) -> Iterator[None]:
        """Hold the right to work on `fp`; waits for another holder, saying so once (log, `on_wait`).

        Held on this machine as well: two processes never share a folder of work, not even when a lease was lost.
        """
        holders: list[str] = []

        def waiting(holder: str) -> None:
            holders.append(holder)
            if len(holders) == 1:
                logger.info("%s %s is being made by %s: waiting for it", stage, fp[:12], holder)
                if on_wait is not None:
                    on_wait()

        with ExitStack() as held:
            with self._explaining(f"Stage {stage!r} could not be locked", self.work, "GENXFER_WORK"):
                held.enter_context(exclusive(self.work / "locks" / stage / f"{fp}.lock", waiting))
                held.enter_context(leased(self.bucket, _lock_key(stage, fp), self._lease_s, waiting))
            yield

    def held(self) -> set[tuple[str, str]]:
        """Return the stages and fingerprints whose locks living holders have, on any host."""
        with self._explaining("The locks could not be read"):
            keys = [entry.key for entry in self.bucket.listed("locks")]
            leases = self.bucket.in_parallel(self.bucket.get, keys)
        living = [key for key, lease in zip(keys, leases, strict=True) if lease is not None and holder_of(lease)]
        return {(stage, name.removesuffix(".json")) for _, stage, name in (key.split("/", 2) for key in living)}

    def stages(self) -> list[str]:
        """Return the names of the stages that have records."""
        with self._explaining("The store could not be listed"):
            return self._records.stages()

    def records(self, stage: str) -> list[Record]:
        """Return the stage's records, newest first; unreadable ones are skipped, objects are not looked at."""
        with self._explaining(f"The records of stage {stage!r} could not be read"):
            return self._records.of_stage(stage)

    def all_records(self) -> list[Record]:
        """Return the records of all stages; StoreError, naming it, if one is there that cannot be read, unless torn."""
        with self._explaining("The records could not all be read, so nobody can say what is unused"):
            return self._records.all()

    def remove_record(self, record: Record) -> None:
        """Remove the record, unless another has taken its place."""
        with self._explaining(f"A record of stage {record.stage!r} could not be removed"):
            self._records.remove(record)

    def objects(self) -> list[StoredObject]:
        """Return every object in the store."""
        with self._explaining("The store could not be listed"):
            return self._objects.listed()

    def remove_object(self, ref: ObjectRef, youngest_s: float) -> bool:
        """Remove an object, unless it has come again within `youngest_s`; return whether it is gone."""
        with self._explaining(f"Object {ref.digest} could not be removed"):
            return self._objects.remove(ref, youngest_s)

    def _advice(self, ref: ObjectRef) -> str:
        """Return which stages made the object and have to run again."""
        return advice(ref, (record for stage in self.stages() for record in self.records(stage)))

    @contextlib.contextmanager
    def _explaining(self, failure: str, folder: Path | None = None, setting: str = "GENXFER_CACHE") -> Iterator[None]:
        """Explain what the local disk (that of the cache by default) and the server complain of."""
        with (
            explaining(failure, folder or self.cache.folder, setting),
            explaining_s3(failure, self.bucket.place, self.bucket.name),
        ):
            yield


def _lock_key(stage: str, fp: str) -> str:
    return f"locks/{stage}/{fp}.json"
