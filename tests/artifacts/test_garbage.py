"""What leaves a store and what stays: with real processes that work in it, and real ones that are killed."""

import json
import os
import shutil
import signal
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from genxfer.artifacts import garbage
from genxfer.artifacts.fingerprint import build_document, digest_bytes, fingerprint
from genxfer.artifacts.garbage import census, remove
from genxfer.artifacts.store import LocalStore, ObjectRef, Record
from genxfer.errors import StoreError
from tests.artifacts.stores import contents, object_path, publish, write_files

DAY_S = 86400.0
KEEP_S = 30 * DAY_S


def made(
    store: LocalStore, folder: Path, stage: str, files: dict[str, bytes], *sources: Record, seed: int = 1
) -> Record:
    """Publish a result that was made from all outputs of `sources`."""
    inputs = {f"{source.stage}/{name}": ref.digest for source in sources for name, ref in source.outputs.items()}
    document = build_document(stage=stage, params={"seed": seed}, inputs=inputs, code={}, libraries={})
    out_dir = write_files(folder / f"{stage}-{seed}", files)
    return publish(store, out_dir, document)


def age(store: LocalStore, days: float) -> None:
    """Make everything in the store look as if it had been made so long ago."""
    moment = datetime.now(UTC) - timedelta(days=days)
    for path in (store.root / "records").glob("*/*.json"):
        record = Record.from_json(path.read_bytes())
        path.write_bytes(replace(record, created=moment.isoformat(timespec="microseconds")).to_json())
    for path in [store.root, *store.root.rglob("*")]:
        os.utime(path, (moment.timestamp(), moment.timestamp()))


def kept_records(store: LocalStore) -> set[tuple[str, str]]:
    return {(stage, record.fingerprint) for stage in store.stages() for record in store.records(stage)}


def key(record: Record) -> tuple[str, str]:
    return record.stage, record.fingerprint


@pytest.fixture
def store(local) -> LocalStore:
    return local


@pytest.fixture
def chain(store, tmp_path) -> tuple[Record, Record, Record]:
    """A data set, a training on it, and an evaluation of that; all of them old."""
    data = made(store, tmp_path, "dataset", {"train.npy": b"images"})
    model = made(store, tmp_path, "pretrain", {"snapshot": b"weights", "curves": b"same"}, data)
    scores = made(store, tmp_path, "evaluate", {"metrics": b"numbers"}, model)
    age(store, 40)
    return data, model, scores


def test_what_is_referred_to_stays_with_all_that_it_was_made_from(store, tmp_path, chain):
    data, model, scores = chain
    other = made(store, tmp_path, "pretrain", {"snapshot": b"other weights", "curves": b"same"}, data, seed=2)
    age(store, 40)
    referred = {key(model): "models:/genxfer/3"}

    found = census(store, referred, KEEP_S)
    assert {entry.name[:8] for entry in found.going if entry.kind == "record"} == {"pretrain", "evaluate"}
    whys = {entry.name: entry.why for entry in found.staying if entry.kind == "record"}
    assert whys[f"pretrain {model.fingerprint[:12]}"] == "models:/genxfer/3"
    assert whys[f"dataset {data.fingerprint[:12]}"] == f"pretrain {model.fingerprint[:12]} was made from it"
    assert {ref.digest for ref in found.objects} == {digest_bytes(b"other weights"), digest_bytes(b"numbers")}
    assert kept_records(store) == {key(data), key(model), key(scores), key(other)}  # nothing was changed

    gone = remove(store, referred, KEEP_S).going
    assert {entry.kind for entry in gone} == {"record", "object"}
    assert sum(entry.size_bytes for entry in gone if entry.kind == "object") == len(b"other weights" + b"numbers")
    assert kept_records(store) == {key(data), key(model)}
    assert store.find(*key(model)) is not None
    assert [path.read_bytes() for path in sorted((store.root / "objects").glob("??/*"))].count(b"same") == 1
    assert not object_path(store, scores.outputs["metrics"]).exists()


def test_a_result_that_merely_has_a_file_in_common_with_what_was_read_goes(store, tmp_path, chain):
    data, model, scores = chain
    made(store, tmp_path, "pretrain", {"snapshot": b"other weights", "curves": b"same"}, data, seed=2)
    twin = made(store, tmp_path, "pretrain", {"snapshot": b"weights", "curves": b"same", "more": b"!"}, data, seed=3)
    age(store, 40)
    remove(store, {key(scores): "wanted"}, KEEP_S)
    assert kept_records(store) == {key(data), key(model), key(twin), key(scores)}


def test_nothing_that_is_recent_goes_nor_what_it_was_made_from(store, tmp_path, chain):
    _, model, _ = chain
    made(store, tmp_path, "evaluate", {"metrics": b"new"}, model, seed=2)
    remove(store, {}, KEEP_S)
    assert sorted(stage for stage, _ in kept_records(store)) == ["dataset", "evaluate", "pretrain"]
    remove(store, {}, 0.0)
    assert kept_records(store) == set()
    assert [one.ref.digest for one in store.objects()] == [digest_bytes(b"new")]  # younger than an hour
    age(store, 1)
    remove(store, {}, 0.0)
    assert store.objects() == []


@pytest.mark.parametrize(("age_s", "stays"), [(60, True), (3500, True), (3700, False)])
def test_an_object_without_a_record_stays_for_an_hour(store, tmp_path, chain, age_s, stays):
    content = b"on its way to a record"
    path = object_path(store, ObjectRef(digest_bytes(content), len(content)))
    write_files(path.parent, {path.name: content})
    moment = datetime.now().timestamp() - age_s
    os.utime(path, (moment, moment))
    remove(store, {key(chain[2]): "wanted"}, KEEP_S)
    assert path.exists() == stays


WORKER = """
import sys, time
from pathlib import Path
from genxfer.artifacts.local import LocalStore
store = LocalStore(Path(sys.argv[1]))
with store.lock(sys.argv[2], sys.argv[3]):
    print("at work", flush=True)
    sys.stdin.read()
"""


@pytest.fixture
def working(store) -> Iterator:
    """A function that starts a process which works on a stage, and returns it."""
    started: list[subprocess.Popen[str]] = []

    def start(stage: str, fp: str) -> "subprocess.Popen[str]":
        command = [sys.executable, "-c", WORKER, str(store.root), stage, fp]
        process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
        started.append(process)
        assert process.stdout is not None
        assert process.stdout.readline() == "at work\n"
        return process

    yield start
    for process in started:
        process.kill()
        process.communicate()


def unfinished(store: LocalStore, *sources: Record, tell: bool = True) -> tuple[str, str]:
    """Leave the unfinished work of a training on `sources` behind, as old as the rest."""
    inputs = {f"{source.stage}/{name}": ref.digest for source in sources for name, ref in source.outputs.items()}
    document = build_document(stage="finetune", params={}, inputs=inputs, code={}, libraries={})
    folder = store.work_dir("finetune", fingerprint(document))
    files = {"checkpoint": b"half way"} | ({"fingerprint.json": json.dumps(document).encode()} if tell else {})
    write_files(folder, files)
    age(store, 40)
    return "finetune", fingerprint(document)


def test_a_training_that_runs_is_not_touched_nor_what_it_reads(store, chain, working):
    data, model, _ = chain
    training = unfinished(store, model)
    process = working(*training)
    assert training in store.held()
    found = remove(store, {}, KEEP_S)
    assert kept_records(store) == {key(data), key(model)}
    assert (store.work_dir(*training) / "checkpoint").read_bytes() == b"half way"
    assert store.read(model.outputs["snapshot"]).read_bytes() == b"weights"
    assert "in use: its lock is held" in {entry.why for entry in found.staying if entry.kind == "work"}

    process.send_signal(signal.SIGKILL)
    process.wait()
    assert training not in store.held()
    remove(store, {}, KEEP_S)
    assert kept_records(store) == set()
    assert store.unfinished() == []


def test_work_that_may_still_be_gone_on_with_stays_with_what_it_reads(store, chain):
    data, model, _ = chain
    unfinished(store, model)
    remove(store, {}, 50 * DAY_S)
    assert len(store.unfinished()) == 1
    training = store.unfinished()[0]
    remove(store, {(training.stage, training.fingerprint): "params.yaml asks for it"}, KEEP_S)
    assert len(store.unfinished()) == 1
    assert kept_records(store) == {key(data), key(model)}


def test_while_somebody_works_without_saying_what_it_reads_no_record_goes(store, chain, working):
    process = working(*unfinished(store, tell=False))
    remove(store, {}, KEEP_S)
    assert kept_records(store) == {key(record) for record in chain}
    process.kill()
    process.wait()
    remove(store, {}, KEEP_S)
    assert kept_records(store) == set()


def test_what_comes_into_use_while_it_is_counted_stays(store, chain, working, monkeypatch):
    training = unfinished(store)
    working(*training)
    working(*key(chain[2]))
    monkeypatch.setattr(LocalStore, "held", lambda self: set())  # it was, when somebody looked
    gone = remove(store, {}, KEEP_S)
    assert kept_records(store) == {key(chain[2])}
    assert (store.work_dir(*training) / "checkpoint").exists()
    assert not [entry for entry in gone.going if entry.name.startswith(("evaluate", "finetune"))]
    assert store.find(*key(chain[2])) is not None


def test_what_is_published_while_records_go_keeps_its_objects(store, tmp_path, chain):
    class Published(LocalStore):
        """A store in which somebody makes the same data set anew while records are being removed."""

        def remove_record(self, record: Record) -> None:
            super().remove_record(record)
            made(self, tmp_path, "dataset", {"train.npy": b"images"}, seed=9)

    remove(Published(store.root), {}, KEEP_S)
    (record,) = store.records("dataset")
    assert store.find("dataset", record.fingerprint) is not None
    assert store.read(record.outputs["train.npy"]).read_bytes() == b"images"


def test_an_object_that_comes_again_while_objects_go_stays(store, tmp_path, chain):
    class Published(LocalStore):
        """A store in which somebody makes the very thing that is about to go."""

        def remove_object(self, ref: ObjectRef, youngest_s: float) -> bool:
            if ref == chain[0].outputs["train.npy"]:
                made(self, tmp_path, "dataset", {"train.npy": b"images"}, seed=9)
            return super().remove_object(ref, youngest_s)

    found = remove(Published(store.root), {}, KEEP_S)
    (record,) = store.records("dataset")
    assert store.find("dataset", record.fingerprint) == record
    (ref,) = record.outputs.values()
    assert {entry.name: entry.why for entry in found.staying}[ref.digest] == "came into use"
    assert ref not in found.objects
    assert ref.digest not in {entry.name for entry in found.going}


def test_an_object_that_a_record_names_by_now_stays_though_it_is_old(store, tmp_path, chain, monkeypatch):
    """As on S3, where who publishes what is there does not upload it again."""
    monkeypatch.setattr(garbage, "OBJECTS_PER_LOOK", 1)
    adopted: list[Record] = []

    class Adopted(LocalStore):
        def remove_object(self, ref: ObjectRef, youngest_s: float) -> bool:
            gone = super().remove_object(ref, youngest_s)
            if not adopted:
                rest = {one.ref.digest: self.read(one.ref).read_bytes() for one in self.objects()}
                adopted.append(made(self, tmp_path, "dataset", rest, seed=9))
                age(store, 40)
            return gone

    found = remove(Adopted(store.root), {}, KEEP_S)
    assert len(found.objects) == 1
    assert len(adopted[0].outputs) == 3
    assert store.find(*key(adopted[0])) is not None


REMOVER = """
import os, sys
from pathlib import Path
from genxfer.artifacts import garbage
from genxfer.artifacts.local import LocalStore

steps = int(sys.argv[2])
def step(function):
    def counted(*arguments):
        global steps
        function(*arguments)
        steps -= 1
        if steps == 0:
            os.kill(os.getpid(), 9)
    return counted
for name in ("remove_record", "remove_object", "discard_work"):
    setattr(LocalStore, name, step(getattr(LocalStore, name)))
garbage.remove(LocalStore(Path(sys.argv[1])), {}, 30 * 86400)
"""


def test_killed_after_any_step_it_leaves_a_sound_store(store, tmp_path, caplog):
    """Every record that is left has all its objects; what is left without a record goes the next time."""
    for steps in range(1, 20):
        data = made(store, tmp_path, "dataset", {"train.npy": b"images"})
        made(store, tmp_path, "pretrain", {"snapshot": b"weights", "curves": b"same"}, data)
        unfinished(store, data)
        killed = subprocess.run([sys.executable, "-c", REMOVER, str(store.root), str(steps)]).returncode != 0
        for found in kept_records(store):
            assert store.find(*found) is not None
        if not killed:
            break
    assert steps > 6  # two records, one work, three objects
    assert not caplog.records
    remove(store, {}, KEEP_S)
    assert store.objects() == []


def test_a_record_that_took_the_place_of_another_is_not_removed_for_it(store, tmp_path, chain):
    data = chain[0]
    newer = replace(data, seconds=9.0)
    (store.root / "records" / "dataset" / f"{data.fingerprint}.json").write_bytes(newer.to_json())
    store.remove_record(data)
    assert store.find(*key(data)) == newer
    store.remove_record(newer)
    store.remove_record(newer)
    assert store.find(*key(data)) is None


def test_an_empty_store_and_damaged_things_are_no_obstacle(store, chain):
    assert census(LocalStore(store.root / "nowhere"), {}, 0).going == []
    path = object_path(store, chain[0].outputs["train.npy"])
    path.replace(path.with_name(f"{path.name}.damaged"))
    (store.root / "records" / "dataset" / f"{'0' * 64}.json").write_text("{")
    (store.root / "work" / "locks").mkdir(parents=True)
    remove(store, {}, KEEP_S)
    assert kept_records(store) == set()


@pytest.mark.parametrize("what", ["newer", "no file", "no folder", "no inputs"])
def test_where_a_record_cannot_be_read_nothing_goes_and_it_is_named(store, chain, what):
    """Its objects, and what it was made from, would be taken for unused."""
    _, model, _ = chain
    path = store.root / "records" / "pretrain" / f"{model.fingerprint}.json"
    if what == "newer":
        path.write_text(json.dumps(json.loads(path.read_text()) | {"a_newer_field": 1}))
    elif what == "no inputs":
        document = {"stage": "pretrain"}
        path.write_bytes(replace(model, document=document, fingerprint=fingerprint(document)).to_json())
    elif what == "no file":
        path.unlink()
        path.mkdir()
    else:
        shutil.rmtree(path.parent)
        path.parent.symlink_to(path.parent)  # which nobody can list, not even root
    before = contents(store.root)
    with pytest.raises(StoreError, match=str(path.parent if what == "no folder" else path)):
        remove(store, {}, KEEP_S)
    assert contents(store.root) == before


def test_looking_at_a_lock_neither_makes_nor_takes_it(store, working):
    assert store.held() == set()
    assert not (store.root / "locks").exists()
    process = working("pretrain", "f" * 64)
    assert store.held() == {("pretrain", "f" * 64)}
    process.kill()
    process.wait()
    assert store.held() == set()
    with store.lock("pretrain", "f" * 64, on_wait=lambda: pytest.fail("waited")):
        assert store.held() == {("pretrain", "f" * 64)}
