"""What is special to the store on S3: transfers in parts, the cache, what a collector needs, how it is named."""

import json
import os
from pathlib import Path

import pytest
from botocore.exceptions import ClientError

from genxfer.artifacts import garbage
from genxfer.artifacts.fingerprint import build_document
from genxfer.artifacts.s3_client import PART_BYTES, Bucket
from genxfer.artifacts.s3_connection import connect
from genxfer.artifacts.store import open_store
from genxfer.errors import StoreError
from tests.artifacts.stores import FILES, FP, object_key, publish, write_files
from tests.seaweed import READER_KEY, READER_SECRET

LARGE = b"0123456789abcdef" * ((2 * PART_BYTES + 12_345) // 16)  # three parts


@pytest.fixture
def large_dir(tmp_path) -> Path:
    return write_files(tmp_path / "large", {"large.npy": LARGE, "small.json": b"{}"})


def counted(store) -> list[str]:
    """Return a list that grows by the name of each operation that the store asks of the server."""
    operations: list[str] = []
    store.bucket._client.meta.events.register(
        "before-send.s3", lambda request, event_name, **more: operations.append(event_name.rpartition(".")[2])
    )
    return operations


@pytest.mark.service
def test_a_large_file_goes_up_in_verified_parts_and_comes_down_in_ranges(s3, large_dir):
    store = s3.open()
    operations = counted(store)
    record = publish(store, large_dir)
    assert operations.count("UploadPart") == 3
    assert operations.count("PutObject") == 2  # the small file and the record
    elsewhere = s3.open()
    operations = counted(elsewhere)
    assert elsewhere.read(record.outputs["large.npy"]).read_bytes() == LARGE
    assert operations.count("GetObject") == 3


@pytest.mark.service
def test_what_is_there_is_not_uploaded_again_and_what_was_read_not_fetched_again(s3, large_dir):
    record = publish(s3.open(), large_dir)
    store = s3.open()
    operations = counted(store)
    other = build_document(stage="finetune", params={}, inputs={}, code={}, libraries={})
    assert publish(store, large_dir, other).outputs == record.outputs
    assert operations.count("PutObject") == 1
    assert "CreateMultipartUpload" not in operations
    operations.clear()
    assert store.read(record.outputs["large.npy"]).read_bytes() == LARGE
    assert operations == []


@pytest.mark.service
def test_the_server_refuses_what_changed_after_it_was_named(s3, out_dir):
    store = s3.open()
    ref = store.cache.add(out_dir / "same.png")
    path = store.cache.path(ref)
    path.chmod(0o644)
    path.write_bytes(b"pictura")
    with pytest.raises(ClientError, match="BadDigest"):
        store._objects.upload([ref])
    assert s3.listed() == []


@pytest.mark.service
def test_an_upload_that_the_server_forgot_begins_anew(s3, large_dir):
    store = s3.open()
    forgotten: list[int] = []

    def forget(**more: object) -> None:
        if not forgotten:
            forgotten.append(0)
            forgotten[0] = Bucket(s3.location).end_lonely_uploads("objects", older_than_s=-1)

    store.bucket._client.meta.events.register("before-send.s3.UploadPart", forget)
    record = publish(store, large_dir)
    assert forgotten == [1]
    assert s3.open().read(record.outputs["large.npy"]).read_bytes() == LARGE


@pytest.mark.service
def test_a_damaged_cached_file_is_fetched_again(s3, out_dir, caplog):
    store = s3.open()
    ref = publish(store, out_dir).outputs["same.png"]
    path = store.read(ref)
    path.chmod(0o644)
    path.write_bytes(b"pictura")
    assert store.read(ref).read_bytes() == FILES["same.png"]
    assert "is damaged: it is fetched again" in caplog.text


@pytest.mark.service
def test_who_may_only_read_is_told_of_a_damaged_object_too(s3, out_dir, monkeypatch):
    ref = publish(s3.open(), out_dir).outputs["same.png"]
    s3.write(object_key(ref), b"pictura")
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", READER_KEY)
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", READER_SECRET)
    with pytest.raises(StoreError, match=r"is damaged: its content .* names it\. Run pretrain again"):
        s3.open().read(ref)
    assert object_key(ref) in s3.listed()


@pytest.mark.service
def test_parts_of_a_dead_upload_are_removed_and_those_of_a_young_one_are_not(s3):
    bucket = Bucket(s3.location)
    for location in (s3.location, f"{s3.location}/neighbour"):
        other = Bucket(location)
        other._client.create_multipart_upload(Bucket=other.name, Key=other._full("objects/aa/bb"))
    assert bucket.end_lonely_uploads("objects") == 0
    assert bucket.end_lonely_uploads("objects", older_than_s=-1) == 1
    assert bucket.end_lonely_uploads("objects", older_than_s=-1) == 0
    assert Bucket(f"{s3.location}/neighbour").end_lonely_uploads("objects", older_than_s=-1) == 1


@pytest.mark.service
def test_who_may_not_remove_a_dead_upload_or_comes_too_late_goes_on(s3, monkeypatch):
    bucket = Bucket(s3.location)
    for name in ("aa/bb", "aa/cc"):
        bucket._client.create_multipart_upload(Bucket=bucket.name, Key=bucket._full(f"objects/{name}"))

    def end(**more: object) -> None:
        bucket.end_lonely_uploads("objects", older_than_s=-1)

    late = Bucket(s3.location)
    late._client.meta.events.register("before-send.s3.AbortMultipartUpload", end)
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", READER_KEY)
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", READER_SECRET)
    reader = Bucket(s3.location)
    assert len(reader._client.list_multipart_uploads(Bucket=reader.name, Prefix=reader.prefix)["Uploads"]) == 2
    assert reader.end_lonely_uploads("objects", older_than_s=-1) == 0
    late.end_lonely_uploads("objects", older_than_s=-1)
    assert bucket.end_lonely_uploads("objects", older_than_s=-1) == 0


@pytest.mark.service
def test_what_nobody_refers_to_goes_and_what_another_host_works_on_stays(s3, tmp_path, monkeypatch):
    monkeypatch.setattr(garbage, "YOUNGEST_S", -1.0)  # S3 lets nobody make an object look old
    documents = [
        build_document(stage="pretrain", params={"seed": seed}, inputs={}, code={}, libraries={}) for seed in range(3)
    ]
    wanted, at_work, unwanted = (
        publish(s3.open(), write_files(tmp_path / str(n), {"snapshot": b"%d" % n, "same": b"same"}), document)
        for n, document in enumerate(documents)
    )
    s3.write(f"{object_key(unwanted.outputs['snapshot'])}.damaged", b"moved aside")
    store = s3.open()
    left = store.work_dir("finetune", FP)
    (left / "checkpoint").write_bytes(b"half way")
    with s3.open().lock("pretrain", at_work.fingerprint):
        assert ("pretrain", at_work.fingerprint) in store.held()
        found = garbage.remove(store, {("pretrain", wanted.fingerprint): "models:/genxfer/3"}, keep_s=0.0)
    assert {entry.name for entry in found.going if entry.kind == "record"} == {f"pretrain {unwanted.fingerprint[:12]}"}
    assert store.find("pretrain", wanted.fingerprint) == wanted
    assert store.find("pretrain", at_work.fingerprint) == at_work
    assert store.find("pretrain", unwanted.fingerprint) is None
    kept = {ref for record in (wanted, at_work) for ref in record.outputs.values()}
    assert {stored.ref for stored in store.objects()} == kept
    assert store.stages() == ["pretrain"]
    assert store.unfinished() == []
    assert all(not key.startswith("locks/") for key in s3.listed())


@pytest.mark.service
def test_while_another_host_works_on_what_has_no_record_yet_no_record_goes(s3, out_dir, monkeypatch):
    """What it reads stands in its folder of work, which only that host sees."""
    monkeypatch.setattr(garbage, "YOUNGEST_S", -1.0)
    record = publish(s3.open(), out_dir)
    store = s3.open()
    with s3.open().lock("finetune", "f" * 64):
        found = garbage.remove(store, {}, keep_s=0.0)
    assert (found.going, store.find("pretrain", FP)) == ([], record)
    assert "finetune ffffffffffff is at work, and does not say what it reads" in {one.why for one in found.staying}
    assert store.read(record.outputs["same.png"]).read_bytes() == FILES["same.png"]
    garbage.remove(store, {}, keep_s=0.0)
    assert (store.all_records(), store.objects()) == ([], [])


@pytest.mark.service
def test_where_a_record_cannot_be_read_nothing_goes_and_it_is_named(s3, out_dir, monkeypatch, caplog):
    monkeypatch.setattr(garbage, "YOUNGEST_S", -1.0)
    store = s3.open()
    publish(store, out_dir)
    key = f"records/pretrain/{FP}.json"
    whole = json.loads(s3.get(key))
    s3.write(key, json.dumps(whole | {"a_newer_field": 1}).encode())
    before = s3.contents()
    with pytest.raises(StoreError, match=f"The record {s3.shown(key)} cannot be read .*a_newer_field"):
        garbage.remove(store, {}, keep_s=0.0)
    assert s3.contents() == before
    s3.write(key, s3.get(key)[:-9])
    garbage.remove(store, {}, keep_s=0.0)
    assert store.objects() == []
    assert f"the record {s3.shown(key)} is torn" in caplog.text


@pytest.mark.service
def test_a_record_that_took_the_place_of_another_is_not_removed_for_it(s3, out_dir):
    store = s3.open()
    record = publish(store, out_dir)
    newer = publish(store, out_dir, seconds=9.0, replaces=record)
    store.remove_record(record)
    assert store.find("pretrain", FP) == newer
    store.remove_record(newer)
    store.remove_record(newer)
    assert store.find("pretrain", FP) is None


@pytest.mark.service
def test_objects_tell_their_age_by_the_servers_clock(s3, out_dir):
    publish(s3.open(), out_dir)
    assert all(0 <= stored.age_s < 600 for stored in s3.open().objects())


@pytest.mark.service
def test_many_keys_are_listed_over_several_pages(s3, monkeypatch):
    bucket = Bucket(s3.location)
    for number in range(5):
        bucket.put(f"records/stage{number % 2}/{number}.json", b"{}", replaces=None)
    bucket._client.meta.events.register(
        "before-parameter-build.s3.ListObjectsV2", lambda params, **more: params.update(MaxKeys=2)
    )
    assert sorted(entry.key for entry in bucket.listed("records")) == [
        "records/stage0/0.json",
        "records/stage0/2.json",
        "records/stage0/4.json",
        "records/stage1/1.json",
        "records/stage1/3.json",
    ]
    assert bucket.folders("records") == ["stage0", "stage1"]


@pytest.mark.service
@pytest.mark.parametrize("prefix", ["", "/", "/deep/prefix/"])
def test_the_environment_alone_leads_to_a_store_and_its_local_folders(s3, tmp_path, monkeypatch, out_dir, prefix):
    monkeypatch.setenv("GENXFER_STORE", s3.location + prefix)
    monkeypatch.setenv("GENXFER_CACHE", str(tmp_path / "cache"))
    monkeypatch.chdir(tmp_path)
    store = open_store()
    assert store.location == (s3.location + prefix).rstrip("/")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["out"]  # nothing is created yet
    record = publish(store, out_dir)
    assert store.read(record.outputs["same.png"]).is_relative_to(tmp_path / "cache" / "objects")
    assert store.work_dir("pretrain", FP) == tmp_path / ".genxfer" / "work" / "pretrain" / FP
    monkeypatch.setenv("GENXFER_WORK", str(tmp_path / "shared"))
    assert open_store().work_dir("pretrain", FP) == tmp_path / "shared" / "pretrain" / FP


@pytest.mark.parametrize("location", ["s3://", "s3://Bucket/x", "s3://bucket/a//b", "s3://bucket/../b", "s3://b"])
def test_a_place_that_is_none_on_s3_is_refused_with_what_is_allowed(location):
    with pytest.raises(StoreError, match=r"is no place on S3. Set GENXFER_STORE to s3://BUCKET/PREFIX"):
        open_store(location)


def test_credentials_in_the_address_are_refused_and_not_repeated():
    with pytest.raises(StoreError, match=r"with credentials in it") as refused:
        open_store("s3://key:secret@bucket/prefix")
    assert "secret" not in str(refused.value)


@pytest.mark.service
def test_an_endpoint_that_is_no_address_is_refused_and_not_repeated(s3, monkeypatch):
    monkeypatch.setenv("AWS_ENDPOINT_URL", "user:secret@host:port")
    with pytest.raises(StoreError, match=r"AWS_ENDPOINT_URL .* is no address") as refused:
        open_store(s3.location).find("pretrain", FP)
    assert "secret" not in str(refused.value)


@pytest.mark.parametrize(
    ("variable", "value", "said"),
    [
        ("AWS_MAX_ATTEMPTS", "abc", r"AWS_MAX_ATTEMPTS, .* a whole number from 1 on: .*'abc'"),
        ("AWS_MAX_ATTEMPTS", "0", r"AWS_MAX_ATTEMPTS, .* a whole number from 1 on: it is 0"),
        ("AWS_DEFAULT_REGION", "eu west", r"AWS_DEFAULT_REGION .* is no name of one"),
    ],
)
def test_a_setting_that_is_wrong_is_named_with_what_is_allowed(monkeypatch, variable, value, said):
    for name in ("AWS_PROFILE", "AWS_REGION", "AWS_ENDPOINT_URL"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("AWS_DEFAULT_REGION", "us-east-1")
    monkeypatch.setenv(variable, value)
    with pytest.raises(StoreError, match=said):
        connect()


@pytest.mark.service
def test_a_password_in_the_endpoint_is_never_named(s3, monkeypatch):
    monkeypatch.setenv("AWS_ENDPOINT_URL", os.environ["AWS_ENDPOINT_URL"].replace("//", "//user:secret@"))
    assert "secret" not in Bucket(s3.location).place()
