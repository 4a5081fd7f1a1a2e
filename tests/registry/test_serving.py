"""`mlflow models serve` as a user starts it, and every example of docs/serving.md, run as it stands."""

import base64
import io
import json
import os
import re
import shlex
import signal
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator
from contextlib import closing
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import psutil
import pytest
from PIL import Image

from genxfer.cli import main
from genxfer.registry.config import ModelPackage, RegisterConfig
from genxfer.registry.models import register
from genxfer.registry.pull import load_sampler
from tests.conftest import REPOSITORY, clean_environment

STARTS_WITHIN_S = 180.0
DOCUMENT = REPOSITORY / "docs" / "serving.md"
ADDRESS = "127.0.0.1:5001"  # in the document
URI = "models:/genxfer@champion"

pytestmark = [pytest.mark.service, pytest.mark.slow]


class Server(NamedTuple):
    """A running server, and the folder in which somebody who uses it works."""

    process: subprocess.Popen[bytes]
    address: str
    folder: Path

    def processes(self) -> list[psutil.Process]:
        process = psutil.Process(self.process.pid)
        return [process, *process.children(recursive=True)]


def examples() -> list[str]:
    """Return the indented blocks of the document, a paragraph each."""
    blocks = re.findall(r"(?:^    .*\n|^\n(?=    ))+", DOCUMENT.read_text(), re.MULTILINE)
    return [re.sub(r"^    ", "", block, flags=re.MULTILINE).strip() for block in blocks if block.strip()]


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory, make_package: Callable[..., ModelPackage]) -> Iterator[Server]:
    """The server that the document's command starts, on a free port, for a registered champion; nothing outlives it."""
    folder = tmp_path_factory.mktemp("serving")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("MLFLOW_TRACKING_URI", f"sqlite:///{folder}/mlflow.db")
        register(make_package(folder / "package", "fp-serving"), RegisterConfig(alias="champion"))
    with closing(socket.socket()) as unused:
        unused.bind(("127.0.0.1", 0))
        address = f"127.0.0.1:{unused.getsockname()[1]}"
    (command,) = (example for example in examples() if example.startswith("mlflow models serve"))
    command = command.replace("5001", address.rpartition(":")[2])
    with (folder / "server.log").open("wb") as log:
        process = subprocess.Popen(
            command.split(), cwd=folder, env=clean_environment(folder), stdout=log, stderr=log, start_new_session=True
        )
    running = Server(process, address, folder)
    try:
        _wait_until_up(running)
        yield running
    finally:
        mine = running.processes() if process.poll() is None else []
        os.killpg(process.pid, signal.SIGTERM)
        _, alive = psutil.wait_procs(mine, timeout=30)
        for left in alive:
            left.kill()
        process.wait()
    assert not alive, f"still there after SIGTERM: {alive}"


def _wait_until_up(server: Server) -> None:
    deadline_s = time.monotonic() + STARTS_WITHIN_S
    while time.monotonic() < deadline_s:
        assert server.process.poll() is None, (server.folder / "server.log").read_text()
        try:
            urllib.request.urlopen(f"http://{server.address}/ping", timeout=5).close()
            return
        except OSError:
            time.sleep(0.2)
    raise TimeoutError((server.folder / "server.log").read_text())


def ask(server: Server, body: Any, content_type: str = "application/json") -> tuple[int, Any]:
    """Return the status and what the server answers."""
    data = body.encode() if isinstance(body, str) else json.dumps(body).encode()
    request = urllib.request.Request(f"http://{server.address}/invocations", data, {"Content-Type": content_type})
    try:
        with urllib.request.urlopen(request, timeout=60) as answer:
            return answer.status, json.load(answer)["predictions"]
    except urllib.error.HTTPError as error:
        return error.code, error.read().decode()


@pytest.fixture
def sampler(server: Server, monkeypatch: pytest.MonkeyPatch) -> Any:
    """The same model, drawn from without a server."""
    monkeypatch.setenv("MLFLOW_TRACKING_URI", f"sqlite:///{server.folder}/mlflow.db")
    return load_sampler(URI)


def test_it_answers_with_the_images_that_a_loaded_model_draws(server: Server, sampler: Any) -> None:
    status, images = ask(server, {"inputs": {"n": 3, "seed": 7}})
    assert status == 200
    assert np.array_equal(images, sampler.images(3, 7))

    asked = {"inputs": {"n": 3, "seed": 7}, "params": {"format": "png", "temperature": 0.5}}
    status, files = ask(server, asked)
    decoded = np.stack([np.asarray(Image.open(io.BytesIO(base64.b64decode(file)))) for file in files])
    assert status == 200
    assert np.array_equal(decoded[..., None], sampler.images(3, 7, temperature=0.5))

    latent = sampler.noise(2, 11)
    status, images = ask(server, {"inputs": {"latent": latent.tolist()}})
    assert status == 200
    assert np.array_equal(images, sampler.images_of(latent))


@pytest.mark.parametrize(
    ("body", "said"),
    [
        ({"inputs": {"n": 0}}, "n is 0; it is the number of images to draw, at least 1"),
        ({"inputs": {"n": 5000}}, "n is 5000; one request draws at most 1024 images"),
        ({"inputs": {"n": 1, "seed": -1}}, "seed is -1; allowed is 0 to 4294967295"),
        ({"inputs": {"n": 1}, "params": {"format": "jpg"}}, "format is 'jpg'; allowed is 'array' or 'png'"),
        ({"inputs": {"n": 1}, "params": {"temperature": -1}}, "temperature is -1.0; allowed is 0 to 10"),
        ({"inputs": {"latent": [[1, 2]]}}, "latent has the shape [1, 2]; this model, a dcgan, takes 64 numbers"),
        ({"inputs": {"latent": [[1, 2], [1]]}}, "inhomogeneous"),
        ({"inputs": {}}, "a request is n, the number of images, and maybe seed; or latent"),
        ({"inputs": {"n": "many"}}, "'many'"),
        ({"n": 1}, "exactly one of the input fields"),
        ("no JSON", "JSON"),
    ],
)
def test_a_bad_request_is_400_with_a_message(server: Server, body: Any, said: str) -> None:
    status, answer = ask(server, body)
    assert status == 400, answer
    assert said in json.loads(answer)["message"]


def test_a_content_that_it_does_not_know_is_said(server: Server) -> None:
    assert ask(server, "n=1", content_type="text/plain")[0] == 415


def test_it_listens_on_this_machine_alone(server: Server) -> None:
    listening = {
        connection.laddr
        for process in server.processes()
        for connection in process.net_connections("inet")
        if connection.status == psutil.CONN_LISTEN
    }
    assert {f"{address.ip}:{address.port}" for address in listening} == {server.address}


def test_the_examples_of_the_document_run_as_they_stand(
    server: Server, sampler: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(server.folder)
    said = "".join(run_example(example.replace(ADDRESS, server.address), server.folder) for example in examples())
    assert "n is 5000; one request draws at most 1024 images" in said
    assert len(re.findall(r"^\| `\w+` \| \d+ \| (1|32) \| [\d.e+]+ \| [\d.e+]+ \| [\d.]+ \|", said, re.MULTILINE)) == 2

    folder = server.folder
    assert len(list((folder / "samples").iterdir())) == len(np.load(folder / "samples.npy")) == 64
    for name in ("grid.png", "calm.png", "ways.png", "ways.gif", "generator.onnx"):
        assert (folder / name).stat().st_size > 1000, name
    assert np.array_equal(json.loads((folder / "arrays.json").read_text())["predictions"], sampler.images(2, 7))
    assert np.array_equal(np.asarray(Image.open(folder / "1.png"))[..., None], sampler.images(2, 7, 0.7)[1])
    assert len(json.loads((folder / "rows.json").read_text())["predictions"]) == 3
    assert np.array_equal(json.loads((folder / "average.json").read_text())["predictions"], sampler.images(1, 0, 0))


def run_example(code: str, folder: Path) -> str:
    """Run a block of the document and return what it printed; the verbs in this process, as each loads torch anew."""
    if code.startswith("genxfer"):
        for line in code.splitlines():
            assert main(shlex.split(line, comments=True)[1:]) == 0, line
        return ""
    if code.startswith("mlflow models serve"):  # it runs already
        return ""
    environment = clean_environment(folder) | {"MLFLOW_ALLOW_PICKLE_DESERIALIZATION": "false"}
    if code.startswith("python benchmarks"):  # the registered model, which is tiny here; the default ones take minutes
        (line,) = (line for line in code.splitlines() if "models:/" in line)
        code = line.replace("python benchmarks", f"{sys.executable} {REPOSITORY / 'benchmarks'}")
    command = [sys.executable, "-c"] if code.startswith("import") else ["bash", "-euo", "pipefail", "-c"]
    done = subprocess.run([*command, code], cwd=folder, env=environment, capture_output=True, text=True)
    assert done.returncode == 0, f"{code}\n{done.stdout}{done.stderr}"
    return done.stdout
