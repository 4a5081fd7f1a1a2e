"""The address of an MLflow server may hold a password: it is used, and never printed."""

import base64
import platform
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest

from genxfer.errors import RegistryError
from genxfer.registry.config import registry_name
from genxfer.registry.connection import brief
from genxfer.registry.runs import start_parent


def test_a_password_in_the_servers_address_is_sent_to_it_and_shown_to_nobody(monkeypatch: pytest.MonkeyPatch) -> None:
    """The server here has no MLflow to offer: it answers, which is enough to go on, and MLflow fails at its answer."""
    asked = []

    class Refusing(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            asked.append((self.path, self.headers["Authorization"]))
            self.send_error(404)

        def do_POST(self) -> None:
            self.do_GET()

        def log_message(self, *_: object) -> None:
            pass

    with ThreadingHTTPServer(("127.0.0.1", 0), Refusing) as server:
        threading.Thread(target=server.serve_forever).start()
        try:
            monkeypatch.setenv("MLFLOW_TRACKING_URI", f"http://ann:sec%40ret@127.0.0.1:{server.server_port}/")
            with pytest.raises(RegistryError) as failed:
                start_parent("transfer")
        finally:
            server.shutdown()
    assert asked[0] == ("/health", "Basic " + base64.b64encode(b"ann:sec@ret").decode())
    assert {authorization for _, authorization in asked} == {asked[0][1]}
    assert len(asked) > 1
    assert f"http://127.0.0.1:{server.server_port}" in str(failed.value)
    assert "ann" not in str(failed.value)
    assert "sec" not in str(failed.value)


@pytest.mark.parametrize("uri", ["http://host:abc", "http://ann:sec/ret@127.0.0.1:9", "http://[::1", "http:///x"])
def test_an_address_that_is_none_is_said_without_the_password(monkeypatch: pytest.MonkeyPatch, uri: str) -> None:
    monkeypatch.setenv("MLFLOW_TRACKING_URI", uri)
    with pytest.raises(RegistryError, match=r"MLFLOW_TRACKING_URI is 'http://.*no address such as") as failed:
        start_parent("transfer")
    assert "sec" not in str(failed.value)


def test_a_server_that_does_not_answer_is_named_without_the_password(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "http://ann:secret@127.0.0.1:9")
    with pytest.raises(RegistryError, match=r"The MLflow server http://127\.0\.0\.1:9 does not answer \(.*refused"):
        start_parent("transfer")


def test_what_mlflow_says_is_repeated_without_the_password(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "http://ann:sec/r@et@host:80")
    said = brief(RuntimeError("API request to http://ann:sec/r@et@host:80/api/2.0 failed (Caused by whatever)"))
    assert said == "API request to http://host:80/api/2.0 failed"


@pytest.mark.parametrize(
    ("uri", "name"),
    [
        ("https://ann:secret@models.example/mlflow/", "https://models.example/mlflow"),
        ("postgresql+psycopg2://ann:secret@db/mlflow?sslmode=require", "postgresql+psycopg2://db/mlflow"),
        ("http://ann:secret@127.0.0.1:5000", "http://127.0.0.1:5000 on HOST"),
        ("http://localhost:5000", "http://localhost:5000 on HOST"),
        ("http://[::1]:5000", "http://[::1]:5000 on HOST"),
        ("http://localhost.example:5000", "http://localhost.example:5000"),
        ("postgresql:///mlflow?host=/run/one", "postgresql:///mlflow on HOST"),
        ("postgresql://ann:sec?ret@db/mlflow", "postgresql://... on HOST"),
        ("sqlite:////data/mlflow.db", "sqlite:////data/mlflow.db on HOST"),
        ("sqlite:///mlflow.db", "sqlite:///FOLDER/mlflow.db on HOST"),
        ("", "sqlite:///FOLDER/mlflow.db on HOST"),
    ],
)
def test_a_registry_is_named_as_it_is_meant_on_any_machine(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, uri: str, name: str
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("MLFLOW_REGISTRY_URI", raising=False)
    monkeypatch.setenv("MLFLOW_TRACKING_URI", uri)
    expected = name.replace("HOST", platform.node()).replace("FOLDER", str(tmp_path.resolve()))
    assert registry_name() == expected
    monkeypatch.setenv("MLFLOW_REGISTRY_URI", uri)  # which counts where versions are meant, and not runs
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "http://elsewhere:5000")
    assert registry_name() == (expected if uri else "http://elsewhere:5000")
