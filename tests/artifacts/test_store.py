"""What a store of either kind keeps, and how it notices what is missing or damaged."""

import json
import logging
import os
import platform
import subprocess
import sys

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from genxfer.artifacts.fingerprint import build_document, digest_bytes, fingerprint
from genxfer.artifacts.store import LocalStore, ObjectRef, Record, Store, open_store
from genxfer.errors import StoreError
from tests.artifacts.stores import DOCUMENT, FILES, FP, contents, object_key, publish, write_files

RECORD = f"records/pretrain/{FP}.json"

names = st.lists(
    st.text("abc.é _-", min_size=1, max_size=8).filter(lambda name: name.strip(".")), min_size=1, max_size=3
)


# fsync, servers and busy machines take their time; each example has a store of its own.
@settings(deadline=None, max_examples=20, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    files=st.dictionaries(names.map(lambda parts: "f".join(parts) + "/x"), st.binary(max_size=300), max_size=4),
    params=st.dictionaries(st.text(max_size=5), st.integers() | st.text(max_size=5) | st.none(), max_size=3),
)
def test_what_is_published_is_found_read_and_exported_as_it_was(tmp_path_factory, new_kind, files, params):
    folder = tmp_path_factory.mktemp("round_trip")
    kind = new_kind()
    store = kind.open()
    document = build_document(stage="evaluate", params=params, inputs={}, code={}, libraries={})
    record = publish(store, write_files(folder / "out", files), document)
    store = kind.open()
    assert store.find("evaluate", fingerprint(document)) == record == Record.from_json(record.to_json())
    assert {name: store.read(ref).read_bytes() for name, ref in record.outputs.items()} == files
    store.export(record, folder / "export")
    assert contents(folder / "export") == files if files else not (folder / "export").exists()


def test_the_layout_is_objects_by_content_and_records_by_fingerprint(kind, published):
    ref = published.outputs["samples/grid.png"]
    assert ref == ObjectRef(digest_bytes(b"picture"), 7)
    assert published.outputs["same.png"] == ref
    assert sorted(kind.contents()) == sorted(
        [RECORD] + [f"objects/{digest_bytes(data)[:2]}/{digest_bytes(data)[2:]}" for data in set(FILES.values())]
    )


def test_nobody_writes_into_what_a_store_gives_to_read(store, published):
    assert all(store.read(ref).stat().st_mode & 0o222 == 0 for ref in published.outputs.values())


def test_nothing_there_is_a_silent_miss(store, kind, caplog):
    assert store.find("pretrain", FP) is None
    assert not caplog.records
    assert kind.contents() == {}


def assert_miss(store: Store, caplog, *words: str) -> None:
    with caplog.at_level(logging.WARNING, "genxfer.artifacts"):
        assert store.find("pretrain", FP) is None
    (message,) = [record.message for record in caplog.records]
    for word in ("pretrain must run again", *words):
        assert word in message


@pytest.mark.parametrize("keep", [0.0, 0.5, 0.99])
def test_a_torn_record_is_a_miss_and_gives_way_to_the_next(store, kind, published, out_dir, caplog, keep):
    data = kind.contents()[RECORD]
    kind.write(RECORD, data[: int(len(data) * keep)])
    assert_miss(store, caplog, kind.shown(RECORD), "damaged")
    again = publish(store, out_dir)
    assert again != published
    assert store.find("pretrain", FP) == again


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
def test_an_altered_record_is_a_miss(store, kind, published, caplog, place, value):
    content = json.loads(kind.contents()[RECORD])
    inner = content
    for key in place[:-1]:
        inner = inner[key]
    inner[place[-1]] = value
    kind.write(RECORD, json.dumps(content).encode())
    assert_miss(store, caplog, kind.shown(RECORD))
    assert store.records("pretrain") == []


def test_a_record_of_another_stage_in_its_place_is_a_miss(store, kind, published, caplog):
    content = json.loads(kind.contents()[RECORD]) | {"stage": "finetune"}
    kind.write(RECORD, json.dumps(content).encode())
    assert_miss(store, caplog, "that of finetune")


def test_a_deleted_object_is_a_miss_that_names_it_and_only_for_the_stage_that_lost_it(
    store, kind, published, out_dir, caplog
):
    other = build_document(stage="finetune", params={}, inputs={}, code={}, libraries={})
    publish(store, write_files(out_dir.parent / "other", {"x": b"other"}), other)
    ref = published.outputs["snapshot.safetensors"]
    kind.remove(object_key(ref))
    assert_miss(store, caplog, "'snapshot.safetensors'", ref.digest, "gone")
    assert store.find("finetune", fingerprint(other)) is not None
    publish(store, out_dir)
    assert store.find("pretrain", FP) is not None


def test_a_truncated_object_is_a_miss(store, kind, published, caplog):
    ref = published.outputs["snapshot.safetensors"]
    kind.write(object_key(ref), b"weights")
    assert_miss(store, caplog, "'snapshot.safetensors'", "has 7 bytes instead of 7000")


def test_a_corrupt_object_is_refused_moved_aside_and_healed_by_running_again(kind, published, out_dir, tmp_path):
    ref, store = published.outputs["snapshot.safetensors"], kind.open()
    key = object_key(ref)
    kind.write(key, b"Weights" * 1000)
    with pytest.raises(StoreError, match=r"is damaged.*Run pretrain again"):
        store.read(ref)
    assert key not in kind.contents()
    assert kind.contents()[f"{key}.damaged"].startswith(b"Weights")
    with pytest.raises(StoreError, match=r"is gone.*Run pretrain again"):
        store.export(published, tmp_path / "export", ["snapshot.safetensors"])
    assert not list(tmp_path.glob("export/*"))
    assert store.find("pretrain", FP) is None
    publish(store, out_dir)
    assert kind.open().read(ref).read_bytes() == FILES["snapshot.safetensors"]


def test_publishing_the_same_bytes_heals_a_corrupt_object_of_the_same_size(store, kind, published, out_dir):
    ref = published.outputs["same.png"]
    kind.write(object_key(ref), b"pictura")
    other = build_document(stage="finetune", params={}, inputs={}, code={}, libraries={})
    publish(store, out_dir, other)
    assert kind.open().read(ref).read_bytes() == b"picture"


def test_a_record_that_is_there_wins_and_the_second_publisher_adopts_it(store, kind, published, tmp_path):
    before = kind.contents()
    adopted = publish(store, write_files(tmp_path / "later", {"snapshot.safetensors": b"other"}), seconds=9.0)
    assert adopted == published
    assert kind.contents() == before


def test_the_record_that_a_publisher_means_to_replace_gives_way_and_no_other_does(store, published, tmp_path):
    later = write_files(tmp_path / "later", {"snapshot.safetensors": b"other"})
    newer = publish(store, later, seconds=9.0, replaces=published)
    assert newer != published
    assert store.find("pretrain", FP) == newer
    assert publish(store, later, seconds=10.0, replaces=published) == newer


def test_a_document_of_another_fingerprint_is_refused(store, kind, out_dir):
    with pytest.raises(ValueError, match="does not have the fingerprint"):
        store.publish("pretrain", "0" * 64, out_dir, document=DOCUMENT, seconds=1, facts={}, versions={})
    with pytest.raises(TypeError, match="loss"):
        store.publish("pretrain", FP, out_dir, document=DOCUMENT, seconds=1, facts={"loss": float("nan")}, versions={})
    assert kind.contents() == {}


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


def test_records_are_listed_newest_first_without_the_unreadable_ones(store, kind, out_dir):
    made = [
        publish(store, out_dir, build_document(stage="pretrain", params={"kimg": n}, inputs={}, code={}, libraries={}))
        for n in range(3)
    ]
    kind.write("records/pretrain/torn.json", b"{")
    assert store.records("pretrain") == made[::-1]
    assert store.records("finetune") == []


def test_a_store_is_told_from_one_at_the_same_place_of_another_machine(kind):
    assert kind.open().identity == kind.open().identity
    assert kind.open().identity.endswith(f" on {platform.node()}")  # a folder, or a server on 127.0.0.1


def test_a_store_is_told_from_one_of_the_same_name_elsewhere(tmp_path, monkeypatch):
    for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"):
        monkeypatch.setenv(name, "some")
    identities = []
    for endpoint in ("http://storage:8333", "http://other:8333"):
        monkeypatch.setenv("AWS_ENDPOINT_URL_S3", endpoint)
        identities.append(open_store("s3://bucket/prefix").identity)
    assert identities == ["s3://bucket/prefix at http://storage:8333", "s3://bucket/prefix at http://other:8333"]
    (tmp_path / "link").symlink_to(tmp_path / "store")
    assert LocalStore(tmp_path / "link").identity == LocalStore(tmp_path / "store").identity
    assert LocalStore(tmp_path / "other").identity != LocalStore(tmp_path / "store").identity


def test_unfinished_work_stays_until_it_is_discarded(store):
    folder = store.work_dir("pretrain", FP)
    (folder / "checkpoint").write_bytes(b"half way")
    assert (store.work_dir("pretrain", FP) / "checkpoint").read_bytes() == b"half way"
    store.discard_work("pretrain", FP)
    store.discard_work("pretrain", FP)
    assert not folder.exists()


def test_unfinished_work_says_what_it_depends_on_or_does_not_begin(store):
    folder = store.work_dir("pretrain", FP, DOCUMENT)
    said = folder / "fingerprint.json"
    assert fingerprint(json.loads(said.read_text())) == FP
    said.unlink()
    said.mkdir()
    with pytest.raises(StoreError, match="'pretrain' could not begin its work"):
        store.work_dir("pretrain", FP, DOCUMENT)


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


def test_a_store_of_an_unknown_kind_is_refused_with_what_is_allowed():
    with pytest.raises(StoreError, match=r"https://; allowed: a folder.*s3://BUCKET/PREFIX"):
        open_store("https://example.org")


def test_the_room_needs_the_standard_library_alone():
    script = "import sys, genxfer.artifacts.store, genxfer.artifacts.closure; print(sorted(sys.modules))"
    loaded = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True).stdout
    assert not any(
        f"'{name}'" in loaded for name in ("torch", "numpy", "pydantic", "yaml", "PIL", "mlflow", "dvc", "boto3")
    )
