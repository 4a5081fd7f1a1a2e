"""A store of each kind, outputs to publish, and their record."""

import itertools
import resource
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from genxfer.artifacts.store import LocalStore, Record, Store
from tests.artifacts.stores import FILES, LocalKind, S3Kind, StoreKind, publish, write_files
from tests.seaweed import Seaweed

KINDS = ["local", pytest.param("s3", marks=pytest.mark.service)]


@pytest.fixture(scope="session")
def _prefixes() -> Iterator[int]:
    return itertools.count()


@pytest.fixture
def new_s3(_prefixes, request, monkeypatch, tmp_path_factory) -> Callable[[], S3Kind]:
    """Return a function that makes an empty store on the running S3 server."""
    server: Seaweed = request.getfixturevalue("seaweed")
    for name, value in server.environment.items():
        monkeypatch.setenv(name, value)
    return lambda: S3Kind(f"s3://bucket/test/{next(_prefixes)}", tmp_path_factory.mktemp("local"), server.client())


@pytest.fixture
def s3(new_s3) -> S3Kind:
    return new_s3()


@pytest.fixture(params=KINDS)
def new_kind(request, tmp_path_factory) -> Callable[[], StoreKind]:
    """Return a function that makes an empty store, and knows its inside."""
    if request.param == "s3":
        return request.getfixturevalue("new_s3")
    return lambda: LocalKind(tmp_path_factory.mktemp("local") / "store")


@pytest.fixture
def kind(new_kind) -> StoreKind:
    return new_kind()


@pytest.fixture
def store(kind) -> Store:
    return kind.open()


@pytest.fixture
def local(tmp_path) -> LocalStore:
    return LocalStore(tmp_path / "store")


@pytest.fixture
def out_dir(tmp_path) -> Path:
    return write_files(tmp_path / "out", FILES)


@pytest.fixture
def published(store, out_dir) -> Record:
    return publish(store, out_dir)


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
