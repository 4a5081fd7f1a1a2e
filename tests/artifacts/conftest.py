"""A store in a folder, outputs to publish, and their record."""

from pathlib import Path

import pytest

from genxfer.artifacts.store import LocalStore, Record
from tests.artifacts.stores import FILES, publish, write_files


@pytest.fixture
def store(tmp_path) -> LocalStore:
    return LocalStore(tmp_path / "store")


@pytest.fixture
def out_dir(tmp_path) -> Path:
    return write_files(tmp_path / "out", FILES)


@pytest.fixture
def published(store, out_dir) -> Record:
    return publish(store, out_dir)
