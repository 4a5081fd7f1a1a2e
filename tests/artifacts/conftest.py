"""A store of each kind, outputs to publish, and their record."""

import itertools
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from genxfer.artifacts.store import LocalStore, Record, Store
from tests.artifacts.stores import FILES, LocalKind, S3Kind, StoreKind, publish, write_files
from tests.seaweed import Seaweed

KINDS = ["local", pytest.param("s3", marks=pytest.mark.service)]


@pytest.fixture(scope="session")
def seaweed(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Seaweed]:
    """A running S3 server with the bucket `bucket`; whoever kills it starts a server of its own instead."""
    server = Seaweed(tmp_path_factory.mktemp("seaweed"))
    try:
        server.start().client().create_bucket(Bucket="bucket")
        yield server
    finally:
        server.kill()


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
