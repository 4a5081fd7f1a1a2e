"""The store in a folder: objects by content, records by fingerprint, and the unfinished work of each.

    objects/ab/cdef...              immutable files, named by their sha256
    records/<stage>/<fp>.json       written last: a record says that everything it names is there
    locks/<stage>/<fp>.lock         held while a stage runs; dies with its holder
    work/<stage>/<fp>/              checkpoints of a run that has not finished

Any number of processes may share it that see the same files and locks. Knows nothing of what a stage does.
"""

import contextlib
import logging
import os
import platform
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from genxfer.artifacts.atomic import PendingFile, sweep
from genxfer.artifacts.disk import FINGERPRINT, WorkOnDisk, advice, copy_into, explaining, export_outputs, listed
from genxfer.artifacts.fingerprint import digest_file, fingerprint
from genxfer.artifacts.lock import exclusive, is_held
from genxfer.artifacts.record import ObjectRef, Record, StoredObject, record_to_keep
from genxfer.errors import StoreError

logger = logging.getLogger("genxfer.artifacts")


class LocalStore(WorkOnDisk):
    """See `store.Store` for what each method promises."""

    def __init__(self, root: Path) -> None:
        super().__init__(root / "work", root, "GENXFER_STORE")
        self.root = root
        self.location = str(root)
        # Another machine may see the same folder, or another one of that name: nobody can say from outside.
        self.identity = f"{root.resolve()} on {platform.node()}"

    def find(self, stage: str, fp: str) -> Record | None:
        """Return the record if it and all its objects are there; otherwise None, with a warning if it should be."""
        found = self._look(stage, fp)
        if isinstance(found, str):
            logger.warning("%s must run again: %s", stage, found)
            return None
        return found

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

        Raises StoreError, with the store as it was, when the disk is full or the files cannot be written; ValueError
        when `document` does not have the fingerprint `fp`.
        """
        if fingerprint(document) != fp:
            raise ValueError(f"stage {stage!r}: the document does not have the fingerprint {fp}")
        with (
            explaining(f"The outputs of stage {stage!r} could not be published", self.root),
            exclusive(self._lock_path(stage, f"{fp}.publish")),
        ):
            found = self._look(stage, fp)
            if isinstance(found, Record) and found != replaces:
                return found
            with ExitStack() as pending:
                objects = self._copy_in(out_dir, pending)
                record = Record(
                    stage=stage,
                    fingerprint=fp,
                    document=dict(document),
                    outputs={name: ref for name, (ref, _) in objects.items()},
                    seconds=seconds,
                    created=datetime.now(UTC).isoformat(timespec="microseconds"),
                    versions=dict(versions),
                    facts=dict(facts),
                )
                data = record.to_json()
                self._commit(record, data, list(objects.values()), pending)
            return Record.from_json(data)  # what any later `find` returns, with lists for tuples

    def read(self, ref: ObjectRef) -> Path:
        """Return the path of a verified object, to be read only; a damaged one is moved aside and raises StoreError."""
        path = self._object_path(ref)
        with explaining(f"Object {ref.digest} could not be read", self.root):
            if not path.is_file():
                raise StoreError(f"Object {ref.digest} is gone from the store {self.root}. {self._advice(ref)}")
            if digest_file(path) == ref.digest:
                return path
        aside = path.with_name(f"{path.name}.damaged")
        with contextlib.suppress(OSError):  # a read-only store: the message stays the same
            os.replace(path, aside)
        raise StoreError(
            f"Object {ref.digest} in the store {self.root} is damaged: its content no longer has the digest that names "
            f"it. It was moved aside to {aside.name}. {self._advice(ref)}"
        )

    def export(self, record: Record, folder: Path, names: Sequence[str] | None = None) -> None:
        """Copy the outputs `names` (all by default) into `folder`, each atomically; equal files are left alone."""
        export_outputs(self.read, record, folder, names)

    @contextlib.contextmanager
    def lock(self, stage: str, fp: str, on_wait: Callable[[], None] | None = None) -> Iterator[None]:
        """Hold the right to work on `fp`; waits for another holder, saying so once (log, `on_wait`)."""

        def waiting(holder: str) -> None:
            logger.info("%s %s is being made by %s: waiting for it", stage, fp[:12], holder)
            if on_wait is not None:
                on_wait()

        with ExitStack() as held:
            with explaining(f"Stage {stage!r} could not be locked", self.root):
                held.enter_context(exclusive(self._lock_path(stage, fp), waiting))
            yield

    def records(self, stage: str) -> list[Record]:
        """Return the stage's records, newest first; unreadable ones are skipped, objects are not looked at."""
        found = []
        for path in (self.root / "records" / stage).glob("*.json"):
            try:
                found.append(Record.from_json(path.read_bytes()))
            except (OSError, ValueError) as error:
                logger.debug("record %s skipped: %s", path, error)
        return sorted(found, key=lambda record: (record.created, record.fingerprint), reverse=True)

    def all_records(self) -> list[Record]:
        """Return the records of all stages; StoreError, naming it, if one is there that cannot be read, unless torn."""
        found = []
        with explaining("The records could not all be read, so nobody can say what is unused", self.root):
            for path in listed(self.root / "records", depth=2):
                if path.suffix == ".json":
                    with contextlib.suppress(FileNotFoundError):  # removed just now
                        found.append(record_to_keep(path.read_bytes(), str(path)))
        return [record for record in found if record is not None]

    def stages(self) -> list[str]:
        """Return the names of the stages that have records."""
        return sorted(path.name for path in (self.root / "records").glob("*") if path.is_dir())

    def held(self) -> set[tuple[str, str]]:
        """Return the stages and fingerprints whose locks living holders have."""
        with explaining("The locks could not be read", self.root):
            locks = [path for path in listed(self.root / "locks", depth=2) if is_held(path)]
        return {(path.parent.name, path.name.partition(".")[0]) for path in locks}

    def remove_record(self, record: Record) -> None:
        """Remove the record, unless another has taken its place."""
        path = self._record_path(record.stage, record.fingerprint)
        with (
            explaining(f"A record of stage {record.stage!r} could not be removed", self.root),
            exclusive(self._lock_path(record.stage, f"{record.fingerprint}.publish")),
            contextlib.suppress(FileNotFoundError, ValueError),
        ):
            if Record.from_json(path.read_bytes()) == record:
                path.unlink()

    def objects(self) -> list[StoredObject]:
        """Return every object in the store."""
        found = []
        with explaining("The objects could not be listed", self.root):
            for path in (self.root / "objects").glob("??/*"):
                if not FINGERPRINT.fullmatch(path.parent.name + path.name):  # a damaged one, moved aside
                    continue
                with contextlib.suppress(FileNotFoundError):
                    status = path.stat()
                    ref = ObjectRef(path.parent.name + path.name, status.st_size)
                    found.append(StoredObject(ref, time.time() - status.st_mtime))
        return sorted(found, key=lambda one: one.ref.digest)

    def remove_object(self, ref: ObjectRef, youngest_s: float) -> bool:
        """Remove an object, unless it has come again within `youngest_s`; return whether it is gone."""
        path = self._object_path(ref)
        with (
            explaining(f"Object {ref.digest} could not be removed", self.root),
            contextlib.suppress(FileNotFoundError),
        ):
            if time.time() - path.stat().st_mtime < youngest_s:
                return False
            path.unlink()
        return True

    def _look(self, stage: str, fp: str) -> Record | str | None:
        """Return the usable record, or why it is not usable, or None where there is none."""
        path = self._record_path(stage, fp)
        try:
            record = Record.from_json(path.read_bytes())
        except FileNotFoundError:
            return None
        except OSError as error:
            return f"its record {path} cannot be read ({error.strerror})"
        except ValueError as error:
            return f"its record {path} is damaged ({error})"
        if (record.stage, record.fingerprint) != (stage, fp):
            return f"its record {path} is that of {record.stage} {record.fingerprint}"
        for name, ref in record.outputs.items():
            try:
                size_bytes = self._object_path(ref).stat().st_size
            except OSError as error:
                return f"its output {name!r}, object {ref.digest}, is gone from the store ({error.strerror})"
            if size_bytes != ref.size_bytes:
                return f"its output {name!r}, object {ref.digest}, has {size_bytes} bytes instead of {ref.size_bytes}"
        return record

    def _copy_in(self, out_dir: Path, pending: ExitStack) -> dict[str, tuple[ObjectRef, PendingFile]]:
        """Copy every output beside the objects, still without a name, and return what each will be."""
        sweep(self.root / "objects")
        objects = {}
        for path in sorted(path for path in out_dir.rglob("*") if path.is_file()):
            # Nobody may write into an object: a link or a memory map of it must stay what its name says.
            file = pending.enter_context(PendingFile(self.root / "objects", mode=0o444))
            objects[path.relative_to(out_dir).as_posix()] = copy_into(file, path), file
        return objects

    def _commit(
        self, record: Record, data: bytes, objects: list[tuple[ObjectRef, PendingFile]], pending: ExitStack
    ) -> None:
        """Make objects and record visible, the record last, once all of them are on the disk."""
        record_path = self._record_path(record.stage, record.fingerprint)
        sweep(record_path.parent)
        record_file = pending.enter_context(PendingFile(record_path.parent))
        record_file.write(data)
        for ref, _ in objects:
            self._object_path(ref).parent.mkdir(parents=True, exist_ok=True)
        for file in (*(file for _, file in objects), record_file):
            file.seal()
        for ref, file in objects:
            # Also over an object of that name: what we bring is known to be whole, what lies there is not.
            file.commit(self._object_path(ref))
        record_file.commit(record_path)

    def _advice(self, ref: ObjectRef) -> str:
        """Return which stages made the object and have to run again."""
        return advice(ref, (record for stage in self.stages() for record in self.records(stage)))

    def _object_path(self, ref: ObjectRef) -> Path:
        return self.root / "objects" / ref.digest[:2] / ref.digest[2:]

    def _record_path(self, stage: str, fp: str) -> Path:
        return self.root / "records" / stage / f"{fp}.json"

    def _lock_path(self, stage: str, fp: str) -> Path:
        return self.root / "locks" / stage / f"{fp}.lock"
