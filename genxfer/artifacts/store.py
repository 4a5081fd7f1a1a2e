"""What stages may rely on in any store of finished stages, and which store a run uses.

Knows nothing of what a stage does. Whoever runs one looks with `find`, takes the `lock`, looks again, works in
`work_dir`, and hands its outputs to `publish`. The store in a folder is `local.py`, that on S3 `s3.py`.
"""

import os
from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any, Protocol

from genxfer.artifacts.local import LocalStore
from genxfer.artifacts.record import ObjectRef, Record, StoredObject, UnfinishedWork
from genxfer.errors import StoreError

__all__ = ["LocalStore", "ObjectRef", "Record", "Store", "StoredObject", "UnfinishedWork", "open_store"]

DEFAULT_LOCATION = ".genxfer/store"


class Store(Protocol):
    """What stages may rely on in any store; every failure of the store itself is a StoreError."""

    location: str

    @property
    def identity(self) -> str:
        """What tells this store from any other, on whatever machine: where it is, and whose place that is."""

    def find(self, stage: str, fp: str) -> Record | None:
        """Return the record if it and all its objects are there; otherwise None, with a warning if it should be."""

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
        """Keep all files under `out_dir` as outputs of `fp`; a valid record there wins, except `replaces`."""

    def read(self, ref: ObjectRef) -> Path:
        """Return the path of a verified object, to be read only; StoreError if it is damaged or gone."""

    def export(self, record: Record, folder: Path, names: Sequence[str] | None = None) -> None:
        """Copy the outputs `names` (all by default) into `folder`, each atomically; equal files are left alone."""

    def lock(self, stage: str, fp: str, on_wait: Callable[[], None] | None = None) -> AbstractContextManager[None]:
        """Hold the right to work on `fp`; waits for another holder, calling `on_wait` once before it does."""

    def work_dir(self, stage: str, fp: str, document: Mapping[str, Any] | None = None) -> Path:
        """Return the folder for the unfinished work of `fp`, made if missing; what a killed run left is still there.

        `document`, which `fp` is the hash of, is written there: what it names must not be removed meanwhile.
        """

    def discard_work(self, stage: str, fp: str) -> None:
        """Remove the unfinished work of `fp`."""

    def records(self, stage: str) -> list[Record]:
        """Return the stage's records, newest first; unreadable ones are skipped, objects are not looked at."""

    def all_records(self) -> list[Record]:
        """Return the records of all stages; StoreError, naming it, if one is there that cannot be read, unless torn."""

    def stages(self) -> list[str]:
        """Return the names of the stages that have records."""

    def held(self) -> set[tuple[str, str]]:
        """Return the stages and fingerprints whose locks living holders have, wherever these are."""

    def remove_record(self, record: Record) -> None:
        """Remove the record, unless another has taken its place."""

    def objects(self) -> list[StoredObject]:
        """Return every object in the store."""

    def remove_object(self, ref: ObjectRef, youngest_s: float) -> bool:
        """Remove an object, unless it has come again within `youngest_s`; return whether it is gone."""

    def unfinished(self) -> list[UnfinishedWork]:
        """Return the unfinished work that lies on this machine."""


def open_store(location: str | None = None) -> Store:
    """Return the store at `location`, else at GENXFER_STORE, else at .genxfer/store; nothing is created yet."""
    chosen = location or os.environ.get("GENXFER_STORE") or DEFAULT_LOCATION
    if chosen.startswith("s3://"):
        from genxfer.artifacts.s3 import S3Store  # with boto3, which a folder needs not

        return S3Store.from_environment(chosen)
    if "://" in chosen:
        scheme = chosen.partition("://")[0]
        raise StoreError(
            f"GENXFER_STORE names a place of kind {scheme}://; allowed: a folder, such as {DEFAULT_LOCATION}, local or "
            "on a mounted disk with flock, or s3://BUCKET/PREFIX."
        )
    root = Path(chosen).expanduser().absolute()
    if root.exists() and not root.is_dir():
        raise StoreError(f"The store {root} is a file, not a folder. Set GENXFER_STORE to a folder.")
    return LocalStore(root)
