"""Where a fault of a store on S3 takes place: two hosts and a server, and what the page shows of an error."""

import random
import re
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from genxfer.artifacts.fingerprint import digest_bytes
from genxfer.artifacts.store import Record
from genxfer.errors import StoreError
from tests.artifacts.stores import FILES, FP, S3Kind, write_files
from tests.seaweed import READER_SECRET, SECRET, Seaweed

LARGE_BYTES = 48 << 20


@dataclass
class Scene:
    """Where a fault takes place."""

    request: pytest.FixtureRequest
    monkeypatch: pytest.MonkeyPatch
    caplog: pytest.LogCaptureFixture
    folder: Path
    kind: S3Kind
    server: Seaweed

    def through(self, endpoint: str, attempts: int | None = None) -> Any:
        """Return the store as another host sees it through `endpoint`, asking so often."""
        self.monkeypatch.setenv("AWS_ENDPOINT_URL", endpoint)
        if attempts is not None:
            self.monkeypatch.setenv("AWS_MAX_ATTEMPTS", str(attempts))
        return self.kind.open()

    def small(self) -> Path:
        return write_files(self.folder / "small", FILES)

    def large(self) -> Path:
        """Return outputs that take several parts, with bytes that no two parts share."""
        return write_files(
            self.folder / "large", {"large.npy": random.Random(0).randbytes(LARGE_BYTES), "grid.png": b"picture"}
        )

    def is_whole(self, record: Record, out_dir: Path) -> bool:
        """Whether a host that has seen nothing yet finds the record, and reads of it what `out_dir` holds."""
        store = self.through(self.server.endpoint)
        return store.find("pretrain", FP) == record and all(
            digest_bytes(store.read(ref).read_bytes()) == digest_bytes((out_dir / name).read_bytes())
            for name, ref in record.outputs.items()
        )

    def refused(self, action: Callable[[], object]) -> str:
        """Return the error that `action` ends in, as the page shows it."""
        with pytest.raises(StoreError) as error:
            action()
        return f"error: {self.shown(str(error.value))}"

    def shown(self, message: str) -> str:
        """Return a message without what differs from run to run."""
        assert SECRET not in message
        assert READER_SECRET not in message
        message = message.replace(self.kind.location, "s3://bucket/prefix")
        message = re.sub(r"http://127\.0\.0\.1:\d+", "http://HOST:PORT", message)
        message = re.sub(r"/[^ ]*/(cache|small)\b", ".genxfer/cache", message)
        return re.sub(r"\b[0-9a-f]{2}/[0-9a-f]{62}", "ab/cdef…", re.sub(r"\b[0-9a-f]{64}\b", "abcdef…", message))
