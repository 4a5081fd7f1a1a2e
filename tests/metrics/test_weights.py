"""Where weights come from: files and addresses, checked by their digest."""

import hashlib
import re
import threading
from collections.abc import Iterator
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest

from genxfer.errors import DataError, ParameterError
from genxfer.metrics.tensors import read_tensors
from genxfer.metrics.weights import VARIABLE, find_weights, weights_digest

CONTENT = b"weights" * 1000
DIGEST = hashlib.sha256(CONTENT).hexdigest()


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("GENXFER_CACHE", str(tmp_path / "cache"))
    monkeypatch.delenv(VARIABLE, raising=False)
    return tmp_path / "cache"


@pytest.fixture
def address(tmp_path: Path) -> Iterator[str]:
    """A server on this machine that has net.pth."""
    (tmp_path / "net.pth").write_bytes(CONTENT)

    class Quiet(SimpleHTTPRequestHandler):
        def log_message(self, format: str, *arguments: object) -> None:
            """Say nothing."""

    server = ThreadingHTTPServer(("127.0.0.1", 0), partial(Quiet, directory=str(tmp_path)))
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield f"http://127.0.0.1:{server.server_port}/net.pth"
    server.shutdown()
    server.server_close()


def test_an_address_is_fetched_once_and_then_found(address: str, cache: Path, tmp_path: Path) -> None:
    first = find_weights("dinov2", f"{address}#sha256={DIGEST}")
    assert first.digest == DIGEST
    assert first.file.read_bytes() == CONTENT
    assert cache in first.file.parents
    (tmp_path / "net.pth").unlink()
    assert find_weights("dinov2", f"{address}#sha256={DIGEST}") == first


def test_what_has_another_digest_is_not_kept(address: str, cache: Path) -> None:
    with pytest.raises(DataError, match=f"{DIGEST}.*Nothing was kept"):
        find_weights("dinov2", f"{address}#sha256={'0' * 64}")
    assert not [path for path in cache.rglob("*") if path.is_file()]


def test_an_address_without_a_digest_is_refused_before_anything_is_fetched(cache: Path) -> None:
    with pytest.raises(ParameterError, match="Append their digest"):
        find_weights("dinov2", "http://127.0.0.1:1/net.pth")


@pytest.mark.parametrize(
    "place",
    ["http://127.0.0.1:1/net.pth", "http://127.0.0.1:1/a b.pth", "http://a:port/net.pth", "http://[::1/net.pth"],
)
def test_an_address_that_does_not_answer_or_is_none_is_a_data_error(place: str) -> None:
    with pytest.raises(DataError, match=rf"cannot be fetched from {re.escape(place)}: "):
        find_weights("dinov2", f"{place}#sha256={DIGEST}")


def test_the_path_of_an_address_says_how_its_file_is_read(address: str, cache: Path, tmp_path: Path) -> None:
    (tmp_path / "net.safetensors").write_bytes(CONTENT)
    place = address.replace("net.pth", f"net.safetensors?download=true#sha256={DIGEST}")
    (cache / "weights").mkdir(parents=True)
    (cache / "weights" / f"{DIGEST}.pth").write_bytes(CONTENT)  # as it was once kept, whatever the path
    assert find_weights("dinov2", place).file.name == f"{DIGEST}.safetensors"
    assert find_weights("dinov2", f"{address}?name=net.safetensors#sha256={DIGEST}").file.name == f"{DIGEST}.pth"


@pytest.mark.parametrize(
    ("place", "shown"),
    [
        ("http://me:secret@127.0.0.1:1/net.pth", "http://127.0.0.1:1/net.pth"),
        ("http://127.0.0.1:1/net.pth?signature=secret", "http://127.0.0.1:1/net.pth"),
        ("http://127.0.0.1:1/net.pth?signature=a@secret", "http://..."),
        ("http://me:sec?ret@127.0.0.1:1/net.pth", "http://..."),
        ("http://me:secret word@127.0.0.1:1/net.pth", "http://127.0.0.1:1/net.pth"),
    ],
)
def test_what_opens_an_address_is_not_told(place: str, shown: str) -> None:
    with pytest.raises(ParameterError, match=f"from {re.escape(shown)}, and") as refused:
        find_weights("dinov2", place)
    with pytest.raises(DataError, match=f"from {re.escape(shown)}: ") as failed:
        find_weights("dinov2", f"{place}#sha256={DIGEST}")
    assert not re.search(r"secret|sec\?ret", f"{refused.value} {failed.value}")


def test_what_was_sent_in_place_of_the_weights_is_told_by_host_and_path(address: str) -> None:
    with pytest.raises(DataError, match=f"What {re.escape(address)} sent") as sent:
        find_weights("dinov2", f"{address}?signature=secret#sha256={'0' * 64}")
    assert "secret" not in str(sent.value)


def test_a_damaged_file_in_the_cache_is_found_out(address: str) -> None:
    found = find_weights("dinov2", f"{address}#sha256={DIGEST}")
    found.file.write_bytes(b"torn")
    with pytest.raises(DataError, match="sha256"):
        find_weights("dinov2", f"{address}#sha256={DIGEST}")


def test_a_file_that_is_not_there_and_a_digest_that_is_none_are_named() -> None:
    with pytest.raises(DataError, match=r"nowhere\.pth, which is no file"):
        find_weights("dinov2", "nowhere.pth")
    with pytest.raises(ParameterError, match="64 hex digits"):
        find_weights("dinov2", "net.pth#sha256=12")


def test_the_digest_is_known_without_fetching_anything(tmp_path: Path) -> None:
    (tmp_path / "own.pth").write_bytes(CONTENT)
    assert weights_digest("dinov2", str(tmp_path / "own.pth")) == DIGEST
    assert weights_digest("dinov2", f"http://127.0.0.1:1/net.pth#sha256={DIGEST}") == DIGEST
    assert weights_digest("dinov2", f"http://127.0.0.1:1/net.pth#sha256={DIGEST.upper()}") == DIGEST


@pytest.mark.parametrize("content", [b"", b"<!DOCTYPE html>", b"\x80\x02.", b"\x80\x02}q\x00.", b"PK\x03\x04torn"])
def test_what_is_no_file_of_weights_is_a_data_error(content: bytes, tmp_path: Path) -> None:
    (tmp_path / "net.pth").write_bytes(content)
    with pytest.raises(DataError, match=r"net\.pth holds no"):
        read_tensors(tmp_path / "net.pth")
