"""What in a store nobody needs any more, and its removal: records first, then the objects that no record names.

Told which records are referred to from outside, it keeps these, what is recent or in use, and all that any of them was
made from. Works on any `store.Store`; knows nothing of what stages do or of who refers to them.

Whatever moment it is killed at, the store is sound: an object goes only when no record names it. Others may work in the
store meanwhile. Where one publishes, in that instant, what is being removed, a record can be left whose object went:
that is a miss, said aloud, and made again.
"""

import json
import logging
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from functools import partial
from typing import Any, Literal

from genxfer.artifacts.record import DOCUMENT, ObjectRef, Record, UnfinishedWork
from genxfer.artifacts.store import Store

YOUNGEST_S = 3600.0  # an object without a record that is younger may be on its way to one
OBJECTS_PER_LOOK = 100  # after which the records are looked at again: one may name what is about to go

logger = logging.getLogger("genxfer.artifacts")

Key = tuple[str, str]  # stage and fingerprint
Document = Mapping[str, Any]  # what a fingerprint is the hash of
Kind = Literal["record", "work", "object", "features"]


@dataclass(frozen=True)
class Entry:
    """Something in the store that goes, or stays, and why."""

    kind: Kind
    name: str  # "finetune 0123456789ab", or an object's digest
    size_bytes: int
    why: str


@dataclass
class Census:
    """Everything in a store, sorted into what goes and what stays."""

    records: list[Record] = field(default_factory=list)  # these three go
    work: list[UnfinishedWork] = field(default_factory=list)
    objects: list[ObjectRef] = field(default_factory=list)
    going: list[Entry] = field(default_factory=list)
    staying: list[Entry] = field(default_factory=list)


class InUseError(Exception):
    """Somebody works on it by now."""


def census(store: Store, referred: Mapping[Key, str], keep_s: float) -> Census:
    """Return what may go from `store`: not what `referred` names (with the reason), is younger than `keep_s` or in use.

    Nor what any of these was made from. Nothing is changed. Raises StoreError when a record cannot be read: of its
    objects nobody could say that they are unused.
    """
    held = store.held()  # first, the records last: whoever publishes and lets go meanwhile is seen as one or the other
    unfinished = {(work.stage, work.fingerprint): work for work in store.unfinished()}
    records = {(record.stage, record.fingerprint): record for record in store.all_records()}
    kept = {key: why for key in records if (why := _record_stays(records[key], referred, held, keep_s))}
    working = {key: why for key in unfinished if (why := _work_stays(unfinished[key], referred, held, keep_s))}
    documents = {key: records[key].document for key in kept}
    documents |= {key: document for key in working if (document := _document(unfinished[key])) is not None}
    for key in held - documents.keys():  # on another host, or only just begun
        kept = {other: f"{_name(key)} is at work, and does not say what it reads" for other in records} | kept
    _keep_sources(records, documents, kept)
    read = {digest for document in documents.values() for digest in document["inputs"].values()}
    return _sorted(store, records, kept, unfinished, working, read)


def remove(store: Store, referred: Mapping[Key, str], keep_s: float) -> Census:
    """Remove what may go, and return what went and what stayed; what has come into use meanwhile stays."""
    found = census(store, referred, keep_s)
    gone = set()
    for record in found.records:
        if _if_unused(store, key := (record.stage, record.fingerprint), partial(store.remove_record, record)):
            gone.add(_name(key))
    for work in found.work:
        if _if_unused(store, key := (work.stage, work.fingerprint), partial(_discard, store, work, keep_s)):
            gone.add(_name(key))
    # Looked at anew: others have published meanwhile, or kept us from a record. No record that is there loses any.
    whys = {entry.name: entry.why for entry in found.staying}
    keys = [(record.stage, record.fingerprint) for record in store.all_records()]
    there = {key: whys.get(_name(key), "came into use") for key in keys}
    objects = census(store, there | dict(referred), keep_s)
    gone_objects = _remove_objects(store, objects.objects)
    gone |= {ref.digest for ref in gone_objects}
    came = [entry for entry in objects.going if entry.kind == "object" and entry.name not in gone]
    went = [entry for entry in found.going if entry.kind != "object" and entry.name in gone]
    went += [entry for entry in objects.going if entry.kind == "object" and entry.name in gone]
    staying = objects.staying + [replace(entry, why="came into use") for entry in came]
    return Census(found.records, found.work, gone_objects, went, staying)


def _remove_objects(store: Store, refs: list[ObjectRef]) -> list[ObjectRef]:
    """Remove the objects that neither came again nor are named by a record by now; return which these were."""
    gone = []
    for first in range(0, len(refs), OBJECTS_PER_LOOK):
        named = {ref.digest for record in store.all_records() for ref in record.outputs.values()}
        batch = [ref for ref in refs[first : first + OBJECTS_PER_LOOK] if ref.digest not in named]
        gone += [ref for ref in batch if store.remove_object(ref, YOUNGEST_S)]
    return gone


def _record_stays(record: Record, referred: Mapping[Key, str], held: set[Key], keep_s: float) -> str | None:
    key = (record.stage, record.fingerprint)
    if key in referred:
        return referred[key]
    if _age_s(record) < keep_s:
        return _recent("made", keep_s)
    return "in use: its lock is held" if key in held else None


def _work_stays(work: UnfinishedWork, referred: Mapping[Key, str], held: set[Key], keep_s: float) -> str | None:
    key = (work.stage, work.fingerprint)
    if key in held:
        return "in use: its lock is held"
    if key in referred:
        return referred[key]
    return _recent("worked on", keep_s) if work.age_s < keep_s else None


def _recent(what: str, keep_s: float) -> str:
    return f"{what} within {keep_s / 86400:g} days"


def _keep_sources(
    records: Mapping[Key, Record], documents: Mapping[Key, Mapping[str, Any]], kept: dict[Key, str]
) -> None:
    """Add to `kept` what those in `documents` were made from, and what these were made from, and so on."""
    waiting = dict(documents)
    while waiting:
        key, document = waiting.popitem()
        for source in _sources(records, document):
            if source not in kept:
                kept[source] = f"{_name(key)} was made from it"
                waiting[source] = records[source].document


def _sources(records: Mapping[Key, Record], document: Document) -> Iterator[Key]:
    """Yield the records that `document` names by their fingerprint, or by the digest of all files that it reads."""
    read: dict[str, dict[str, str]] = {}
    for name, digest in document["inputs"].items():
        stage, _, file = name.partition("/")
        if file:
            read.setdefault(stage, {})[file] = digest
        elif (name, digest) in records:
            yield name, digest
    for key, record in records.items():
        files = read.get(record.stage)
        if files and files.items() <= {name: ref.digest for name, ref in record.outputs.items()}.items():
            yield key


def _sorted(
    store: Store,
    records: Mapping[Key, Record],
    kept: Mapping[Key, str],
    unfinished: Mapping[Key, UnfinishedWork],
    working: Mapping[Key, str],
    read: set[str],
) -> Census:
    found = Census()
    for key, record in records.items():
        entry = Entry("record", _name(key), len(record.to_json()), kept.get(key, "nobody refers to it"))
        (found.staying if key in kept else found.going).append(entry)
        if key not in kept:
            found.records.append(record)
    for key, work in unfinished.items():
        entry = Entry("work", _name(key), work.size_bytes, working.get(key, "left unfinished, and not gone on with"))
        (found.staying if key in working else found.going).append(entry)
        if key not in working:
            found.work.append(work)
    named = {ref.digest for key in kept for ref in records[key].outputs.values()}
    for stored in store.objects():
        why = "an output of what stays" if stored.ref.digest in named else None
        why = why or ("read by what stays" if stored.ref.digest in read else None)
        why = why or ("somebody may be publishing it" if stored.age_s < YOUNGEST_S else None)
        entry = Entry("object", stored.ref.digest, stored.ref.size_bytes, why or "of no record that stays")
        (found.staying if why else found.going).append(entry)
        if not why:
            found.objects.append(stored.ref)
    return found


def _if_unused(store: Store, key: Key, act: Callable[[], None]) -> bool:
    """Do `act` under the lock of `key`; return False where somebody else has that by now."""

    def refuse() -> None:
        raise InUseError

    try:
        with store.lock(*key, on_wait=refuse):
            act()
    except InUseError:
        logger.info("%s is in use by now: it stays", _name(key))
        return False
    return True


def _discard(store: Store, work: UnfinishedWork, keep_s: float) -> None:
    """Remove unfinished work, unless somebody has worked on it since it was counted."""
    now = {(one.stage, one.fingerprint): one.age_s for one in store.unfinished()}
    if now.get((work.stage, work.fingerprint), 0.0) >= keep_s:
        store.discard_work(work.stage, work.fingerprint)


def _document(work: UnfinishedWork) -> dict[str, Any] | None:
    """Return what the unfinished work depends on, as far as it says."""
    try:
        document: dict[str, Any] = json.loads((work.folder / DOCUMENT).read_text())
    except (OSError, ValueError):
        return None
    return document if isinstance(document.get("inputs"), dict) else None


def _age_s(record: Record) -> float:
    return (datetime.now(UTC) - datetime.fromisoformat(record.created)).total_seconds()


def _name(key: Key) -> str:
    return f"{key[0]} {key[1][:12]}"
