"""The embedded server: found or started, on 127.0.0.1 alone, never left behind; told by the process table."""

import os
import signal
import sqlite3
import subprocess
import sys
import threading
from collections.abc import Iterator
from dataclasses import dataclass
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import psutil
import pytest

from flows.embedded import api_server, configured_api_url, quiet_environment
from genxfer.errors import GenxferError

ROOT = Path(__file__).parents[2]
SCRIPT = Path(__file__).with_name("interruptible.py")
GONE_WITHIN_S = 20  # a busy machine included; the kernel does it at once


@pytest.fixture(autouse=True)
def _no_api_configured(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in [name for name in os.environ if name.startswith("PREFECT_")]:
        monkeypatch.delenv(name)
    monkeypatch.setenv("PREFECT_HOME", str(tmp_path))
    monkeypatch.chdir(tmp_path)


@dataclass
class Run:
    """A running interruptible.py, with the server that belongs to it."""

    process: "subprocess.Popen[str]"
    url: str

    @classmethod
    def start(cls, prefect_home: Path) -> "Run":
        environment = {name: value for name, value in os.environ.items() if not name.startswith("PREFECT_")}
        environment |= {"PREFECT_HOME": str(prefect_home), "PYTHONPATH": str(ROOT)}
        process = subprocess.Popen(
            [sys.executable, str(SCRIPT)], stdout=subprocess.PIPE, text=True, env=environment, start_new_session=True
        )
        assert process.stdout is not None
        return cls(process, process.stdout.readline().strip())

    def wait_until_training(self) -> None:
        assert self.process.stdout is not None
        assert self.process.stdout.readline().strip() == "training"

    def family(self) -> list[psutil.Process]:
        return psutil.Process(self.process.pid).children(recursive=True)

    def stop(self, number: int) -> list[psutil.Process]:
        """Send the signal, and return the children that are still there seconds after."""
        children = self.family()
        assert children
        os.killpg(self.process.pid, number)  # as a terminal does it; the server has a group of its own
        self.process.wait(GONE_WITHIN_S)
        return psutil.wait_procs(children, timeout=GONE_WITHIN_S)[1]


@dataclass
class TwoRuns:
    interrupted: Run
    killed: Run
    database: Path

    def states(self, table: str) -> list[str]:
        with sqlite3.connect(self.database) as connection:
            return sorted(name for (name,) in connection.execute(f"SELECT state_name FROM {table}"))


@pytest.fixture(scope="module")
def two_runs(tmp_path_factory: pytest.TempPathFactory) -> Iterator[TwoRuns]:
    """Two runs at once, on a database that does not exist before, both in the middle of their work."""
    home = tmp_path_factory.mktemp("prefect")
    runs = [Run.start(home), Run.start(home)]
    try:
        for run in runs:
            run.wait_until_training()
        yield TwoRuns(*runs, home / "prefect.db")
    finally:
        for run in runs:
            if run.process.poll() is None:
                run.process.kill()


@pytest.mark.slow
@pytest.mark.service
def test_two_first_runs_at_once_share_one_database(two_runs: TwoRuns) -> None:
    assert two_runs.states("flow_run") == ["Completed", "Completed", "Running", "Running"]


@pytest.mark.slow
@pytest.mark.service
def test_the_server_listens_on_the_loopback_interface_alone(two_runs: TwoRuns) -> None:
    servers = two_runs.interrupted.family() + two_runs.killed.family()
    listening = [c for server in servers for c in server.net_connections() if c.status == psutil.CONN_LISTEN]
    assert [connection.laddr.ip for connection in listening] == ["127.0.0.1", "127.0.0.1"]


@pytest.mark.slow
@pytest.mark.service
def test_after_kill_9_no_server_is_left(two_runs: TwoRuns) -> None:
    assert two_runs.killed.stop(signal.SIGKILL) == []


@pytest.mark.slow
@pytest.mark.service
def test_after_ctrl_c_no_server_is_left_and_it_knows_how_the_run_ended(two_runs: TwoRuns) -> None:
    assert two_runs.interrupted.stop(signal.SIGINT) == []
    assert "Crashed" in two_runs.states("flow_run")
    assert two_runs.states("task_run").count("Crashed") == 1


@pytest.mark.service
@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGINT, signal.SIGTERM])
def test_a_server_that_is_only_starting_is_not_left_behind_either(number: int, tmp_path: Path) -> None:
    assert Run.start(tmp_path).stop(number) == []


@pytest.mark.service
def test_a_server_that_cannot_start_says_why_and_what_to_do() -> None:
    code = "from flows.embedded import api_server\nwith api_server() as server: server.wait()"
    environment = {**os.environ, "PREFECT_DEBUG_MODE": "perhaps"}
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, env=environment, capture_output=True, text=True)
    message = done.stderr.partition("GenxferError: ")[2]
    assert "ended with code 1" in message
    assert "PREFECT_HOME" in message
    assert "perhaps" in message  # the server's own last words


ASKED = """
import os
from flows.embedded import api_server
with api_server() as server:
    from prefect.client.orchestration import get_client
    server.wait()
    print(repr(get_client(sync_client=True).api_healthcheck()))
print(os.environ.get("NO_PROXY"))
"""


@pytest.mark.slow
@pytest.mark.service
def test_a_proxy_is_not_asked_for_the_embedded_server() -> None:
    environment = {name: value for name, value in os.environ.items() if "proxy" not in name.lower()}
    environment |= {"HTTP_PROXY": "http://127.0.0.1:9", "NO_PROXY": "intranet"}  # where nobody listens
    done = subprocess.run([sys.executable, "-c", ASKED], cwd=ROOT, env=environment, capture_output=True, text=True)
    assert (done.stdout, done.stderr) == ("None\nintranet\n", "")


class _Refuses(BaseHTTPRequestHandler):
    """A server that wants a password: it is there, whatever it says."""

    def do_GET(self) -> None:
        self.send_response(401)
        self.end_headers()

    def log_message(self, *arguments: object) -> None:
        pass


@pytest.fixture
def refusing_server() -> Iterator[str]:
    """The address, host:port, of a server that answers everything with 401."""
    with ThreadingHTTPServer(("127.0.0.1", 0), _Refuses) as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        try:
            yield f"127.0.0.1:{server.server_port}"
        finally:
            server.shutdown()
            thread.join()


def test_an_api_in_the_environment_is_used_and_nothing_is_started(
    refusing_server: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    url = f"http://somebody:secret@{refusing_server}/api"
    monkeypatch.setenv("PREFECT_API_URL", url)
    children_before = psutil.Process().children()
    with api_server() as server:
        server.wait()
        assert server.url == url
        assert psutil.Process().children() == children_before
    assert os.environ["PREFECT_API_URL"] == url


NOBODY = "127.0.0.1:9"


@pytest.mark.parametrize(
    ("file", "content", "named_by"),
    [
        (".env", f"PREFECT_API_URL=http://somebody:secret@{NOBODY}/api", "PREFECT_API_URL in .env"),
        ("prefect.toml", f'api.url = "http://somebody:secret@{NOBODY}/api"', "api.url in prefect.toml"),
        (
            "profiles.toml",
            f'active = "team"\nprofiles.team.PREFECT_API_URL = "http://somebody:secret@{NOBODY}/api"',
            "profile 'team', which is active",
        ),
        (".env", f"PREFECT_API_URL=somebody:secret@{NOBODY}/api", "PREFECT_API_URL in .env"),  # no http://
    ],
)
def test_a_configured_api_that_does_not_answer_is_told_at_once_with_what_names_it(
    file: str, content: str, named_by: str, tmp_path: Path
) -> None:
    (tmp_path / file).write_text(content)
    with api_server() as server, pytest.raises(GenxferError) as told:
        server.wait()
    for part in (NOBODY, "does not answer", named_by, "Start that server"):
        assert part in str(told.value)
    assert "secret" not in str(told.value)


def test_an_api_in_the_active_profile_is_used(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    profiles = 'active = "team"\n[profiles.team]\nPREFECT_API_URL = "http://team/api"\n[profiles.alone]\n'
    (tmp_path / "profiles.toml").write_text(profiles)
    assert configured_api_url() == "http://team/api"
    monkeypatch.setenv("PREFECT_PROFILE", "alone")
    assert configured_api_url() is None


def test_an_api_in_a_profile_that_prefect_came_with_is_used(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert configured_api_url() is None
    monkeypatch.setenv("PREFECT_PROFILE", "local")
    assert configured_api_url() == "http://127.0.0.1:4200/api"
    monkeypatch.delenv("PREFECT_PROFILE")
    profiles = tmp_path / "profiles.toml"
    profiles.write_text('active = "local"\n\n[profiles]\n')  # all that `prefect profile use local` writes
    assert configured_api_url() == "http://127.0.0.1:4200/api"
    profiles.write_text('active = "local"\n[profiles.local]\nPREFECT_LOGGING_LEVEL = "DEBUG"\n')
    assert configured_api_url() == "http://127.0.0.1:4200/api"
    profiles.write_text('active = "local"\n[profiles.local]\nPREFECT_API_URL = "http://team/api"\n')
    assert configured_api_url() == "http://team/api"


def test_prefect_itself_uses_the_api_that_was_found(tmp_path: Path) -> None:
    (tmp_path / "profiles.toml").write_text('active = "local"\n')
    code = (
        "from flows.embedded import api_server\n"
        "with api_server():\n"
        "    from prefect.settings import PREFECT_API_URL\n"
        "    print(PREFECT_API_URL.value())"
    )
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, env=os.environ, capture_output=True, text=True)
    assert (done.stdout, done.stderr) == ("http://127.0.0.1:4200/api\n", "")


def test_an_api_in_a_file_of_variables_is_used(tmp_path: Path) -> None:
    (tmp_path / "prefect.toml").write_text('[api]\nurl = "http://here/api"\n')
    (tmp_path / ".env").write_text("export PREFECT_API_URL='http://variables/api'  # as Prefect reads it too\n")
    assert configured_api_url() == "http://variables/api"


def test_an_api_in_prefect_toml_is_used(tmp_path: Path) -> None:
    (tmp_path / "prefect.toml").write_text('[api]\nurl = "http://here/api"\n')
    assert configured_api_url() == "http://here/api"


def test_what_the_user_set_is_not_silenced(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PREFECT_LOGGING_HANDLERS_CONSOLE_LEVEL", "DEBUG")
    monkeypatch.setenv("DO_NOT_TRACK", "0")
    monkeypatch.setattr(os, "environ", os.environ.copy())
    quiet_environment()
    assert os.environ["PREFECT_LOGGING_HANDLERS_CONSOLE_LEVEL"] == "DEBUG"
    assert os.environ["DO_NOT_TRACK"] == "0"


def test_starting_the_server_needs_no_import_of_prefect() -> None:
    code = "import sys, flows.embedded; sys.exit('prefect' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], cwd=ROOT).returncode == 0
