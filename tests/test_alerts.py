"""Alerts against a real listener: what arrives, what is tried again, and that no secret of the address is told."""

import base64
import os
import socket
from collections.abc import Iterator

import pytest

from genxfer import alerts
from genxfer.alerts import VARIABLE, send_alert
from tests.listener import Listener, listening

SECRETS = ("T0KEN", "s3cret", "somebody")


@pytest.fixture
def listener(monkeypatch: pytest.MonkeyPatch) -> Iterator[Listener]:
    for name in [name for name in os.environ if name.lower().endswith("_proxy")]:
        monkeypatch.delenv(name)
    monkeypatch.setattr(alerts, "PAUSE_S", 0.0)
    with listening() as listener:
        monkeypatch.setenv(VARIABLE, f"{listener.url}/hooks/T0KEN?key=s3cret")
        yield listener


def test_what_arrives_is_readable_by_its_text_alone(listener: Listener) -> None:
    send_alert("promoted", "version 3 is champion", {"version": 3, "kid": 0.01})
    assert listener.received == [
        {"event": "promoted", "text": "version 3 is champion", "details": {"version": 3, "kid": 0.01}}
    ]
    assert listener.paths == ["/hooks/T0KEN?key=s3cret"]
    assert listener.headers[0]["Content-Type"].startswith("application/json")


def test_whatever_the_details_are_it_is_json(listener: Listener) -> None:
    send_alert("failed", "ü\n", {"kid": float("nan"), "path": os.path, "nested": [{"of": (1, None)}]})
    details = listener.received[0]["details"]
    assert details["kid"] == "nan"
    assert details["nested"] == [{"of": [1, None]}]


def test_passwords_in_what_is_told_are_left_out(listener: Listener) -> None:
    send_alert("failed", "no answer from postgresql://mlflow:s3cret@db:5432/mlflow", {"at": "s3://a:s3cret@host"})
    assert listener.received[0]["text"] == "no answer from postgresql://db:5432/mlflow"
    assert listener.received[0]["details"] == {"at": "s3://host"}


@pytest.mark.parametrize("password", ["p@s3cret", "p/s3cret", "s3cret@/:@#?"])
def test_a_password_of_any_characters_is_left_out(listener: Listener, password: str) -> None:
    send_alert("failed", f"no answer from //user:{password}@host/path, nor from http://other/path")
    assert listener.received[0]["text"] == "no answer from //host/path, nor from http://other/path"


def test_without_an_address_nothing_happens(
    listener: Listener, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setenv(VARIABLE, " ")
    send_alert("failed", "text")
    monkeypatch.delenv(VARIABLE)
    send_alert("failed", "text")
    assert not listener.received
    assert not caplog.records


def test_user_and_password_of_the_address_become_a_header(
    listener: Listener, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setenv(VARIABLE, listener.url.replace("//", "//somebody:s3cret%2F@"))
    send_alert("failed", "text")
    kind, _, encoded = listener.headers[0]["Authorization"].partition(" ")
    assert (kind, base64.b64decode(encoded)) == ("Basic", b"somebody:s3cret/")
    assert not caplog.records


@pytest.mark.parametrize(
    ("answers", "tries", "warned"),
    [
        ([503, 429], 3, ""),  # passes in the end
        ([500, 500, 500], 3, "it answered 500"),
        ([404], 1, "it answered 404"),  # will not pass
        ([302], 1, "it answered 302"),  # not followed
    ],
)
def test_only_what_may_pass_is_tried_again(
    listener: Listener, answers: list[int], tries: int, warned: str, caplog: pytest.LogCaptureFixture
) -> None:
    listener.answers = list(answers)
    send_alert("failed", "text")
    assert len(listener.received) == tries
    assert warned in caplog.text
    assert bool(warned) == bool(caplog.records)
    assert not any(secret in caplog.text for secret in SECRETS)


@pytest.mark.parametrize(
    ("address", "says"),
    [
        ("ftp://somebody:s3cret@host/T0KEN", "must be a whole http or https address"),
        ("file:///s3cret/T0KEN", "must be a whole http or https address"),
        ("hooks.example/T0KEN", "must be a whole http or https address"),
        ("http://somebody:s3cret@host:port/T0KEN", "must be a whole http or https address"),
        ("http://host/T0KEN with spaces", "could not be sent to http://host:"),
        ("http://[host/T0KEN", "must be a whole http or https address"),
        ("https://somebody:s3cret@127.0.0.1:{closed}/T0KEN", "ConnectionRefusedError Connection refused"),
        ("https://somebody:s3cret@nobody.invalid/T0KEN", "could not be sent to https://nobody.invalid: gaierror"),
    ],
)
def test_an_address_that_cannot_work_is_a_warning_without_its_secrets(
    listener: Listener, address: str, says: str, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        closed = taken.getsockname()[1]
    monkeypatch.setenv(VARIABLE, address.format(closed=closed))
    send_alert("failed", "text")
    assert says in caplog.text
    assert not any(secret in caplog.text for secret in SECRETS)
