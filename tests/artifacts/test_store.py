import json
import logging
import os
import resource
import signal
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from genxfer.artifacts.fingerprint import build_document, digest_bytes, fingerprint
from genxfer.artifacts.store import LocalStore, ObjectRef, Record, open_store
from genxfer.errors import StoreError

DOCUMENT = build_document(
    stage="pretrain", params={"kimg": 1.5, "layers": (1, 2)}, inputs={}, code={"a": "1"}, libraries={}
)
FP = fingerprint(DOCUMENT)
FILES = {"snapshot.safetensors": b"weights" * 1000, "samples/grid.png": b"picture", "same.png": b"picture"}


def write_files(folder: Path, files: dict[str, bytes]) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    for name, data in files.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(data)
    return folder


def publish(store: LocalStore, out_dir: Path, document=DOCUMENT, seconds: float = 2.5, **options) -> Record:
    return store.publish(
        document["stage"],
        fingerprint(document),
        out_dir,
        document=document,
        seconds=seconds,
        facts={"images_per_s": 800.0},
        versions={"torch": "2.14"},
        **options,
    )


def object_path(store: LocalStore, ref: ObjectRef) -> Path:
    return store.root / "objects" / ref.digest[:2] / ref.digest[2:]


def damage(path: Path, data: bytes) -> None:
    path.chmod(0o644)
    path.write_bytes(data)


def contents(root: Path) -> dict[str, bytes]:
    """Every file of a store but its locks."""
    files = (path for path in root.rglob("*") if path.is_file())
    return {
        path.relative_to(root).as_posix(): path.read_bytes()
        for path in files
        if "locks" not in path.relative_to(root).parts
    }


@pytest.fixture
def store(tmp_path) -> LocalStore:
    return LocalStore(tmp_path / "store")


@pytest.fixture
def out_dir(tmp_path) -> Path:
    return write_files(tmp_path / "out", FILES)


@pytest.fixture
def published(store, out_dir) -> Record:
    return publish(store, out_dir)


names = st.lists(
    st.text("abc.é _-", min_size=1, max_size=8).filter(lambda name: name.strip(".")), min_size=1, max_size=3
)


@settings(deadline=None, max_examples=30)  # fsync and busy machines take their time
@given(
    files=st.dictionaries(names.map(lambda parts: "f".join(parts) + "/x"), st.binary(max_size=300), max_size=4),
    params=st.dictionaries(st.text(max_size=5), st.integers() | st.text(max_size=5) | st.none(), max_size=3),
)
def test_what_is_published_is_found_read_and_exported_as_it_was(tmp_path_factory, files, params):
    folder = tmp_path_factory.mktemp("round_trip")
    store = LocalStore(folder / "store")
    document = build_document(stage="evaluate", params=params, inputs={}, code={}, libraries={})
    record = publish(store, write_files(folder / "out", files), document)
    assert store.find("evaluate", fingerprint(document)) == record == Record.from_json(record.to_json())
    assert {name: store.read(ref).read_bytes() for name, ref in record.outputs.items()} == files
    store.export(record, folder / "export")
    assert contents(folder / "export") == files if files else not (folder / "export").exists()


def test_the_layout_is_objects_by_content_and_records_by_fingerprint(store, published):
    ref = published.outputs["samples/grid.png"]
    assert ref == ObjectRef(digest_bytes(b"picture"), 7)
    assert published.outputs["same.png"] == ref
    assert sorted(contents(store.root)) == sorted(
        [f"records/pretrain/{FP}.json"]
        + [f"objects/{digest_bytes(data)[:2]}/{digest_bytes(data)[2:]}" for data in set(FILES.values())]
    )
    assert object_path(store, ref).stat().st_mode & 0o222 == 0  # nobody writes into an object


def test_nothing_there_is_a_silent_miss(store, caplog):
    assert store.find("pretrain", FP) is None
    assert not caplog.records
    assert not store.root.exists()


def assert_miss(store: LocalStore, caplog, *words: str) -> None:
    with caplog.at_level(logging.WARNING, "genxfer.artifacts"):
        assert store.find("pretrain", FP) is None
    (message,) = [record.message for record in caplog.records]
    for word in ("pretrain must run again", *words):
        assert word in message


@pytest.mark.parametrize("keep", [0.0, 0.5, 0.99])
def test_a_torn_record_is_a_miss(store, published, caplog, keep):
    path = store.root / "records" / "pretrain" / f"{FP}.json"
    data = path.read_bytes()
    path.write_bytes(data[: int(len(data) * keep)])
    assert_miss(store, caplog, str(path), "damaged")


@pytest.mark.parametrize(
    ("place", "value"),
    [
        (("document", "params", "kimg"), 2.5),
        (("fingerprint",), "0" * 64),
        (("outputs", "../../escape"), {"digest": "0" * 64, "size_bytes": 1}),
        (("outputs", "same.png", "digest"), "../../../etc/passwd"),
        (("outputs",), []),
        (("surprise",), 1),
    ],
)
def test_an_altered_record_is_a_miss(store, published, caplog, place, value):
    path = store.root / "records" / "pretrain" / f"{FP}.json"
    content = json.loads(path.read_bytes())
    inner = content
    for key in place[:-1]:
        inner = inner[key]
    inner[place[-1]] = value
    path.write_text(json.dumps(content))
    assert_miss(store, caplog, str(path))
    assert store.records("pretrain") == []


def test_a_record_of_another_stage_in_its_place_is_a_miss(store, published, caplog):
    path = store.root / "records" / "pretrain" / f"{FP}.json"
    content = json.loads(path.read_bytes()) | {"stage": "finetune"}
    path.write_text(json.dumps(content))
    assert_miss(store, caplog, "that of finetune")


def test_a_deleted_object_is_a_miss_that_names_it_and_only_for_the_stage_that_lost_it(
    store, published, out_dir, caplog
):
    other = build_document(stage="finetune", params={}, inputs={}, code={}, libraries={})
    publish(store, write_files(out_dir.parent / "other", {"x": b"other"}), other)
    ref = published.outputs["snapshot.safetensors"]
    object_path(store, ref).unlink()
    assert_miss(store, caplog, "'snapshot.safetensors'", ref.digest, "gone")
    assert store.find("finetune", fingerprint(other)) is not None
    publish(store, out_dir)
    assert store.find("pretrain", FP) is not None


def test_a_truncated_object_is_a_miss(store, published, caplog):
    ref = published.outputs["snapshot.safetensors"]
    damage(object_path(store, ref), b"weights")
    assert_miss(store, caplog, "'snapshot.safetensors'", "has 7 bytes instead of 7000")


def test_a_corrupt_object_is_refused_moved_aside_and_healed_by_running_again(store, published, out_dir, tmp_path):
    ref = published.outputs["snapshot.safetensors"]
    path = object_path(store, ref)
    damage(path, b"Weights" * 1000)
    with pytest.raises(StoreError, match=r"is damaged.*Run pretrain again"):
        store.read(ref)
    assert not path.exists()
    assert path.with_name(path.name + ".damaged").read_bytes().startswith(b"Weights")
    with pytest.raises(StoreError, match=r"is gone.*Run pretrain again"):
        store.export(published, tmp_path / "export", ["snapshot.safetensors"])
    assert not list(tmp_path.glob("export/*"))
    assert store.find("pretrain", FP) is None
    publish(store, out_dir)
    assert store.read(ref).read_bytes() == FILES["snapshot.safetensors"]


def test_publishing_the_same_bytes_heals_a_corrupt_object_of_the_same_size(store, published, out_dir):
    ref = published.outputs["same.png"]
    damage(object_path(store, ref), b"pictura")
    other = build_document(stage="finetune", params={}, inputs={}, code={}, libraries={})
    publish(store, out_dir, other)
    assert store.read(ref).read_bytes() == b"picture"


def test_a_record_that_is_there_wins_and_the_second_publisher_adopts_it(store, published, tmp_path):
    before = contents(store.root)
    adopted = publish(store, write_files(tmp_path / "later", {"snapshot.safetensors": b"other"}), seconds=9.0)
    assert adopted == published
    assert contents(store.root) == before


def test_the_record_that_a_publisher_means_to_replace_gives_way_and_no_other_does(store, published, tmp_path):
    later = write_files(tmp_path / "later", {"snapshot.safetensors": b"other"})
    newer = publish(store, later, seconds=9.0, replaces=published)
    assert newer != published
    assert store.find("pretrain", FP) == newer
    assert publish(store, later, seconds=10.0, replaces=published) == newer


def test_a_document_of_another_fingerprint_is_refused(store, out_dir):
    with pytest.raises(ValueError, match="does not have the fingerprint"):
        store.publish("pretrain", "0" * 64, out_dir, document=DOCUMENT, seconds=1, facts={}, versions={})
    with pytest.raises(TypeError, match="loss"):
        store.publish("pretrain", FP, out_dir, document=DOCUMENT, seconds=1, facts={"loss": float("nan")}, versions={})
    assert contents(store.root) == {}


def test_export_writes_the_names_asked_for_and_leaves_equal_files_alone(store, published, tmp_path):
    folder = write_files(tmp_path / "export", {"same.png": b"stale", "mine.txt": b"the user's"})
    store.export(published, folder, ["same.png"])
    assert contents(folder) == {"same.png": b"picture", "mine.txt": b"the user's"}
    os.utime(folder / "same.png", (1, 1))
    store.export(published, folder)
    assert contents(folder) == FILES | {"mine.txt": b"the user's"}
    assert (folder / "same.png").stat().st_mtime == 1
    (folder / "same.png").write_bytes(b"pictura")
    store.export(published, folder)
    assert (folder / "same.png").read_bytes() == b"picture"


def test_records_are_listed_newest_first_without_the_unreadable_ones(store, out_dir):
    made = [
        publish(store, out_dir, build_document(stage="pretrain", params={"kimg": n}, inputs={}, code={}, libraries={}))
        for n in range(3)
    ]
    (store.root / "records" / "pretrain" / "torn.json").write_text("{")
    assert store.records("pretrain") == made[::-1]
    assert store.records("finetune") == []


def test_unfinished_work_stays_until_it_is_discarded(store):
    folder = store.work_dir("pretrain", FP)
    (folder / "checkpoint").write_bytes(b"half way")
    assert (store.work_dir("pretrain", FP) / "checkpoint").read_bytes() == b"half way"
    store.discard_work("pretrain", FP)
    store.discard_work("pretrain", FP)
    assert not folder.exists()


@pytest.fixture
def small_disk(tmp_path) -> Iterator[tuple[Path, str]]:
    """A folder where two megabytes do not fit, and what is said then: a small real disk, else a limit on files."""
    folder = tmp_path / "small"
    folder.mkdir()
    mounted = subprocess.run(["mount", "-t", "tmpfs", "-o", "size=1m", "tmpfs", str(folder)], capture_output=True)
    if mounted.returncode == 0:
        yield folder, "No space is left on the disk"
        subprocess.run(["umount", "--lazy", str(folder)], check=True)
    else:  # mounting is for root: a file size limit makes the same system call fail
        yield from limited(folder)


@pytest.fixture
def limited_files(tmp_path) -> Iterator[tuple[Path, str]]:
    yield from limited(tmp_path)


def limited(folder: Path) -> Iterator[tuple[Path, str]]:
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (1 << 20, hard))
    yield folder, "File too large"
    resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


@pytest.mark.parametrize("obstacle", ["small_disk", "limited_files"])
def test_a_full_disk_is_an_error_that_says_so_with_the_store_as_it_was(request, tmp_path, obstacle):
    small = {"a.json": b"{}", "b.npy": b"x" * 300_000}
    first = build_document(stage="dataset", params={}, inputs={}, code={}, libraries={})
    small_dir = write_files(tmp_path / "fits", small)
    # A sparse file: its two megabytes of zeros need no room where it lies, so the limit meets the store alone.
    large_dir = write_files(tmp_path / "too_large", {"a.json": b"new", "c.npy": b""})
    os.truncate(large_dir / "c.npy", 2 << 20)
    folder, words = request.getfixturevalue(obstacle)
    store = LocalStore(folder / "store")
    kept = publish(store, small_dir, first)
    before = contents(store.root)
    with pytest.raises(StoreError, match=f"'pretrain' could not be published.*{words}"):
        publish(store, large_dir)
    assert contents(store.root) == before
    assert store.find("pretrain", FP) is None
    assert store.find("dataset", fingerprint(first)) == kept
    assert publish(store, small_dir).outputs.keys() == small.keys()  # and there is room again


def test_export_onto_a_full_disk_keeps_the_old_file(small_disk, store, tmp_path):
    folder, words = small_disk
    export = write_files(folder / "export", {"train.npy": b"old"})
    out_dir = write_files(tmp_path / "large", {"train.npy": b""})
    os.truncate(out_dir / "train.npy", 2 << 20)
    if words.startswith("File"):
        pytest.skip("the limit on files holds for the store as well; the same write path is tested above")
    record = publish(store, out_dir)
    with pytest.raises(StoreError, match=f"'train.npy' of stage 'pretrain' could not be written.*{words}"):
        store.export(record, export)
    assert contents(export) == {"train.npy": b"old"}


PUBLISHER = """
import json, os, sys
from pathlib import Path
from genxfer.artifacts.atomic import PendingFile
from genxfer.artifacts.fingerprint import fingerprint
from genxfer.artifacts.local import LocalStore

store, out_dir, document = LocalStore(Path(sys.argv[1])), Path(sys.argv[2]), json.loads(sys.argv[3])
# Killed, for real, at the n-th of the steps that can leave something behind.
steps = int(sys.argv[4])
def step(function):
    def counted(*arguments):
        global steps
        steps -= 1
        if steps < 0:
            os.kill(os.getpid(), 9)
        return function(*arguments)
    return counted
for name in ("write", "seal", "commit"):
    setattr(PendingFile, name, step(getattr(PendingFile, name)))
store.publish(
    document["stage"], fingerprint(document), out_dir, document=document, seconds=1.0, facts={}, versions={}
)
"""


def test_a_publisher_killed_at_any_step_leaves_nothing_that_is_half_published(store, out_dir, caplog):
    finished_after = None
    for steps in range(20):
        command = [sys.executable, "-c", PUBLISHER, str(store.root), str(out_dir), json.dumps(DOCUMENT), str(steps)]
        killed = subprocess.run(command, capture_output=True).returncode == -signal.SIGKILL
        record = store.find("pretrain", FP)
        for path in (store.root / "objects").glob("??/*"):
            assert digest_bytes(path.read_bytes()) == path.parent.name + path.name
        if not killed:
            finished_after = steps
            break
        assert record is None
    assert finished_after is not None
    assert finished_after >= 12  # three outputs and a record: written, sealed, named
    assert record is not None
    assert not caplog.records  # an interrupted publication is a plain miss
    for path in store.root.rglob(".genxfer-*"):
        os.utime(path, (0, 0))
    next_document = DOCUMENT | {"params": {"kimg": 2}}
    publish(store, out_dir, next_document)  # and sweeps up after the dead
    assert not list(store.root.rglob(".genxfer-*"))


RUNNER = """
import json, sys
from pathlib import Path
from genxfer.artifacts.fingerprint import fingerprint
from genxfer.artifacts.local import LocalStore

store, out_dir, document = LocalStore(Path(sys.argv[1])), Path(sys.argv[2]), json.loads(sys.argv[3])
key = document["stage"], fingerprint(document)
print("ready", flush=True)
sys.stdin.readline()
if store.find(*key) is None:
    with store.lock(*key, on_wait=lambda: print("waits", flush=True)):
        if store.find(*key) is None:
            print("works", flush=True)
            sys.stdin.readline()
            store.publish(*key, out_dir, document=document, seconds=1.0, facts={}, versions={})
            sys.exit()
print("hits", flush=True)
"""


def start(script: str, *arguments: object) -> subprocess.Popen[str]:
    command = [sys.executable, "-c", script, *map(str, arguments), json.dumps(DOCUMENT)]
    process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
    assert next_line(process) == "ready"
    return process


def next_line(process: subprocess.Popen[str]) -> str:
    assert process.stdout is not None
    return process.stdout.readline().strip()


def go_on(process: subprocess.Popen[str]) -> None:
    assert process.stdin is not None
    process.stdin.write("\n")
    process.stdin.flush()


def test_of_two_processes_that_want_a_fingerprint_one_works_and_the_other_waits_and_hits(store, out_dir):
    first, second = (start(RUNNER, store.root, out_dir) for _ in range(2))
    go_on(first)
    assert next_line(first) == "works"
    go_on(second)
    assert next_line(second) == "waits"
    go_on(first)
    assert next_line(second) == "hits"
    assert [process.wait() for process in (first, second)] == [0, 0]


def test_when_the_worker_is_killed_the_one_that_waits_takes_over(store, out_dir):
    first, second = (start(RUNNER, store.root, out_dir) for _ in range(2))
    go_on(first)
    assert next_line(first) == "works"
    go_on(second)
    assert next_line(second) == "waits"
    first.send_signal(signal.SIGKILL)
    assert next_line(second) == "works"
    go_on(second)
    assert second.wait() == 0
    assert store.find("pretrain", FP) is not None
    first.wait()


def test_publishers_that_race_without_a_lock_all_return_the_one_record(store, tmp_path):
    folders = [write_files(tmp_path / str(n), {"out": b"%d" % n * 100_000}) for n in range(8)]
    barrier, records = threading.Barrier(8), []

    def race(folder: Path, seconds: float) -> None:
        barrier.wait()
        records.append(publish(LocalStore(store.root), folder, seconds=seconds))

    threads = [threading.Thread(target=race, args=(folder, n)) for n, folder in enumerate(folders)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len({record.seconds for record in records}) == 1
    assert store.find("pretrain", FP) == records[0]
    assert len(list((store.root / "objects").glob("??/*"))) == 1


def test_a_folder_without_permission_is_an_error_that_says_so(tmp_path, out_dir):
    (tmp_path / "store").write_text("")
    with pytest.raises(StoreError, match="is a file, not a folder"):
        open_store(str(tmp_path / "store"))
    with pytest.raises(StoreError, match="could not be published"):
        publish(LocalStore(tmp_path / "store"), out_dir)


def test_open_store_takes_the_argument_then_the_environment_then_the_default(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("GENXFER_STORE", raising=False)
    assert open_store().location == str(tmp_path / ".genxfer" / "store")
    monkeypatch.setenv("GENXFER_STORE", str(tmp_path / "elsewhere"))
    assert open_store(None).location == str(tmp_path / "elsewhere")
    assert open_store("here").location == str(tmp_path / "here")
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("location", ["s3://bucket/prefix", "https://example.org"])
def test_a_store_that_is_no_folder_is_refused_with_what_to_set(location):
    with pytest.raises(StoreError, match=f"{location}.*S3.*Set GENXFER_STORE to a folder"):
        open_store(location)


def test_the_room_needs_the_standard_library_alone():
    script = "import sys, genxfer.artifacts.store, genxfer.artifacts.closure; print(sorted(sys.modules))"
    loaded = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True).stdout
    assert not any(f"'{name}'" in loaded for name in ("torch", "numpy", "pydantic", "yaml", "PIL", "mlflow", "dvc"))
