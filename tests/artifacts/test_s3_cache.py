"""The cache of a store on S3: its limit, who may be thrown out of it, and what it notices. Needs no server."""

import os
import subprocess
import sys
import threading
from pathlib import Path

import pytest

from genxfer.artifacts.fingerprint import digest_bytes
from genxfer.artifacts.s3_cache import DamagedError, ObjectCache, parse_bytes
from genxfer.artifacts.store import ObjectRef
from genxfer.errors import StoreError


def ref_of(data: bytes) -> ObjectRef:
    return ObjectRef(digest_bytes(data), len(data))


def fill(cache: ObjectCache, data: bytes, age_s: float = 0.0) -> Path:
    """Put `data` into the cache, last used `age_s` ago."""
    path = cache.fill(ref_of(data), lambda write: write(data))
    now = path.stat().st_mtime
    os.utime(path, (now - age_s, now - age_s))
    return path


def kept(folder: Path) -> set[bytes]:
    return {path.read_bytes() for path in folder.glob("objects/??/*")}


OLD, USED, NEW = (letter * 400 for letter in (b"o", b"u", b"n"))


def test_the_least_recently_used_object_goes_first_and_within_the_limit_none(tmp_path):
    first = ObjectCache(tmp_path, 1000)
    fill(first, USED, age_s=30)
    fill(first, OLD, age_s=20)
    assert kept(tmp_path) == {USED, OLD}
    del first
    later = ObjectCache(tmp_path, 1000)
    found = later.find(ref_of(USED))
    assert found is not None
    del later
    fill(ObjectCache(tmp_path, 1000), NEW)
    assert kept(tmp_path) == {USED, NEW}


def test_what_this_process_was_given_stays_though_the_limit_is_passed(tmp_path):
    cache = ObjectCache(tmp_path, 1000)
    paths = [fill(cache, data, age_s=30) for data in (OLD, USED, NEW)]
    assert all(path.exists() for path in paths)


def test_what_others_remove_in_that_very_moment_is_no_obstacle(tmp_path, monkeypatch):
    """They leave `users/` and remove damaged objects without the lock."""
    fill(ObjectCache(tmp_path, 1000), OLD)
    fill(ObjectCache(tmp_path, 1000), USED)
    glob = Path.glob

    def removed(folder: Path, pattern: str) -> list[Path]:
        return [folder / "no" / "more", folder / "4711-left", *glob(folder, pattern)]

    monkeypatch.setattr(Path, "glob", removed)
    fill(ObjectCache(tmp_path, 1000), NEW)
    monkeypatch.undo()
    assert kept(tmp_path) == {USED, NEW}


HOLDER = """
import sys
from pathlib import Path
from genxfer.artifacts.record import ObjectRef
from genxfer.artifacts.s3_cache import ObjectCache
cache = ObjectCache(Path(sys.argv[1]), 1000)
print(cache.find(ObjectRef(sys.argv[2], 400)), flush=True)
sys.stdin.read()
"""


def test_what_another_living_process_was_given_stays_until_it_is_gone_however_it_went(tmp_path):
    path = fill(ObjectCache(tmp_path, 1000), USED, age_s=30)
    command = [sys.executable, "-c", HOLDER, str(tmp_path), digest_bytes(USED)]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as holder:
        assert holder.stdout is not None
        assert holder.stdout.readline().strip() == str(path)
        os.utime(path, (1, 1))
        fill(ObjectCache(tmp_path, 1000), OLD, age_s=20)
        fill(ObjectCache(tmp_path, 1000), NEW, age_s=10)
        assert kept(tmp_path) == {USED, NEW}
        holder.kill()
    fill(ObjectCache(tmp_path, 1000), OLD)
    assert kept(tmp_path) == {NEW, OLD}
    assert len(list(tmp_path.glob("users/*"))) <= 1  # the dead one's is gone


def test_a_damaged_file_is_removed_and_said_aloud(tmp_path, caplog):
    cache = ObjectCache(tmp_path, 1000)
    path = fill(cache, OLD)
    for data in (b"O" * 400, b"o" * 399):
        path.chmod(0o644)
        path.write_bytes(data)
        assert cache.find(ref_of(OLD)) is None
        assert not path.exists()
        fill(cache, OLD)
    assert cache.find(ref_of(OLD)) == path
    assert [record.message.endswith("is damaged: it is fetched again") for record in caplog.records] == [True, True]


def test_what_arrives_with_another_digest_or_not_at_all_leaves_nothing(tmp_path):
    cache = ObjectCache(tmp_path, 1000)
    with pytest.raises(DamagedError):
        cache.fill(ref_of(OLD), lambda write: write(NEW))

    def break_off(write) -> None:
        write(OLD[:100])
        raise ConnectionError

    with pytest.raises(ConnectionError):
        cache.fill(ref_of(OLD), break_off)
    assert [path for path in (tmp_path / "objects").rglob("*") if path.is_file()] == []


def test_many_that_fill_and_read_at_once_never_see_half_an_object(tmp_path):
    contents = [bytes([n]) * 300 for n in range(12)]
    failures: list[object] = []

    def work() -> None:
        for data in contents:
            cache = ObjectCache(tmp_path, 1000)
            path = cache.find(ref_of(data)) or fill(cache, data)
            if path.read_bytes() != data:
                failures.append(path)

    threads = [threading.Thread(target=work) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert failures == []
    assert sum(len(data) for data in kept(tmp_path)) <= 1000 + 4 * 300


@pytest.mark.parametrize(
    ("text", "size"), [("20GB", 20 * 10**9), ("1.5 MiB", 3 << 19), ("1000", 1000), ("5kb", 5000), ("0", 0)]
)
def test_sizes_are_read_as_people_write_them(text, size):
    assert parse_bytes(text) == size


@pytest.mark.parametrize("text", ["much", "20 QB", "-1", "GB"])
def test_a_size_that_is_none_is_refused_with_what_is_allowed(text):
    with pytest.raises(StoreError, match=rf"GENXFER_CACHE_BYTES is '{text}'; allowed: .*GB.*such as 20GB"):
        parse_bytes(text)
