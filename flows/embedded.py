"""An API for a flow when there is none: Prefect's own server on 127.0.0.1, which lives exactly as long as we do.

Stands between the command line and the flow. Where the user names an API (`PREFECT_API_URL` in the environment, in
`.env`, in `prefect.toml` or in the active profile) that one is used and nothing is started. Otherwise
`embedded_server.py` runs in a child process, with the database in `PREFECT_HOME`, so that `prefect server start` shows
the runs later.

Importing this costs nothing: it knows nothing of Prefect, so the server can start first and the slow imports of the
caller happen meanwhile.
"""

import contextlib
import http.client
import importlib
import importlib.util
import os
import socket
import ssl
import subprocess
import sys
import tempfile
import time
import tomllib
import urllib.error
import urllib.parse
import urllib.request
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import IO, Any

from genxfer.errors import GenxferError
from genxfer.launch.lifeline import as_parent
from genxfer.launch.proxies import past_proxies

START_LIMIT_S = 120.0  # creating the database on a busy machine included; a warm start takes about 8 s
STOP_LIMIT_S = 5.0
ANSWER_LIMIT_S = 10.0  # of a server that is up already, on a busy machine or far away

_QUIET = {
    "PREFECT_LOGGING_HANDLERS_CONSOLE_LEVEL": "CRITICAL",  # what failed is told once, by the command line
    "PREFECT_LOGGING_TO_API_WHEN_MISSING_FLOW": "ignore",
    "PREFECT_SERVER_ANALYTICS_ENABLED": "false",
    "DO_NOT_TRACK": "1",
}


def quiet_environment() -> None:
    """Keep Prefect's lines off the terminal and send no usage data, save what the user has set; before its import."""
    for name, value in _QUIET.items():
        os.environ.setdefault(name, value)


class ApiServer:
    """An API which may still be starting: `url` is known at once, `wait()` returns when it answers.

    Without a process it is one that the user named; `named_by` says where.
    """

    def __init__(
        self,
        url: str,
        process: subprocess.Popen[bytes] | None = None,
        log: IO[bytes] | None = None,
        named_by: str | None = None,
    ):
        self.url = url
        self._process = process
        self._log = log
        self._named_by = named_by

    def wait(self, limit_s: float = START_LIMIT_S) -> None:
        """Return when the API answers; one that the user named is asked once, as it is not starting.

        Raises GenxferError when it does not: with the last words of our server, or with what named the user's.
        """
        if self._process is None:
            self._ask_once()
            return
        deadline = time.monotonic() + limit_s
        while not self._answers(deadline - time.monotonic()):
            if self._process.poll() is not None or time.monotonic() > deadline:
                raise GenxferError(self._obituary(limit_s))
            time.sleep(0.05)

    def stop(self) -> None:
        """End the embedded server, after what this process still has to tell it."""
        if self._process is None:
            return
        _deliver_events()
        self._process.terminate()
        try:
            self._process.wait(STOP_LIMIT_S)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()

    def _ask_once(self) -> None:
        """Raise GenxferError unless something answers: Prefect's client would try for 35 s, and end in a traceback."""
        try:
            with urllib.request.urlopen(_health(self.url), timeout=ANSWER_LIMIT_S):
                return
        except urllib.error.HTTPError:
            return  # whoever refuses is there: what it wants, such as a password, is for Prefect's client to say
        except (OSError, http.client.HTTPException, ValueError) as error:  # URLError and timeouts among the first
            reason = getattr(error, "reason", error) if isinstance(error, OSError) else type(error).__name__
            if isinstance(reason, ssl.SSLError):
                return  # Prefect has settings of its own for certificates
        from genxfer.registry.config import shown_uri

        shown = shown_uri(self.url) if "://" in self.url else self.url.rpartition("@")[2]
        raise GenxferError(
            f"the Prefect API {shown} does not answer ({reason}). It is named by {self._named_by}. Start that server, "
            "correct the address to one such as http://host:4200/api, or take it out there: where none is named, "
            "genxfer starts a server of its own for the run."
        )

    def _answers(self, limit_s: float) -> bool:
        # The socket listens from the beginning, so one request waits for the whole start; no proxy may come between.
        opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))
        try:
            with opener.open(f"{self.url}/health", timeout=max(limit_s, 0.1)) as response:
                return bool(response.status == 200)
        except (urllib.error.URLError, OSError):
            return False

    def _obituary(self, limit_s: float) -> str:
        assert self._process is not None
        assert self._log is not None
        code = self._process.poll()
        what = f"did not answer within {limit_s:.0f} s" if code is None else f"ended with code {code} while starting"
        self._log.seek(0)
        last_lines = "\n  ".join(self._log.read().decode(errors="replace").strip().splitlines()[-8:])
        return (
            f"the embedded Prefect server {what}. Its database is in {prefect_home()}; set PREFECT_HOME for another "
            f"place, or PREFECT_API_URL to use a server of yours. Its last words:\n  {last_lines or '(none)'}"
        )


def run_flow(name: str, params: Any) -> Any:
    """Run the flow `name` of the module of that name in this process and return its result.

    The server starts first; what takes the flow seconds, importing Prefect and opening MLflow, happens meanwhile.
    """
    from genxfer.registry.connection import connect

    quiet_environment()
    with api_server() as server:
        flow = getattr(importlib.import_module(f"flows.{name}"), name)
        connect()
        server.wait()
        return flow(params)


@contextlib.contextmanager
def api_server() -> Iterator[ApiServer]:
    """Yield the API that flows in this process use: the one configured, or an embedded one, starting in the background.

    Call it in the main thread, before importing Prefect, and call `wait()` on what it yields before the flow: on Linux
    the kernel ends the server with the thread that started it.
    """
    configured = _configured_api()
    if configured:
        url, named_by = configured
        with _api_url(url):  # Prefect, outside its command line, overlooks a profile that it came with
            yield ApiServer(url, named_by=named_by)
        return
    # Prefect's client would ask the environment's proxy for 127.0.0.1, while the flow runs and for its last words.
    with tempfile.TemporaryFile() as log, _variables(past_proxies()):
        server = _start(log)
        try:
            with _api_url(server.url):
                yield server
        finally:
            server.stop()


def _start(log: IO[bytes]) -> ApiServer:
    """Start the child on a port that the kernel chose; it inherits the listening socket, so nobody can take it."""
    with socket.create_server(("127.0.0.1", 0), backlog=128) as listener:
        port = listener.getsockname()[1]
        process = subprocess.Popen(
            [sys.executable, "-P", str(Path(__file__).with_name("embedded_server.py")), str(listener.fileno())],
            env=as_parent(),
            pass_fds=[listener.fileno()],
            start_new_session=True,  # Ctrl-C reaches us alone: the flow still has to report how it ended
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=log,
        )
    return ApiServer(f"http://127.0.0.1:{port}/api", process, log)


@contextlib.contextmanager
def _api_url(url: str) -> Iterator[None]:
    """Point this process at the API: a Prefect imported later reads the environment, an earlier one its settings."""
    with contextlib.ExitStack() as stack:
        stack.enter_context(_variables({"PREFECT_API_URL": url}))
        if "prefect" in sys.modules:
            from prefect.settings import PREFECT_API_URL, temporary_settings

            stack.enter_context(temporary_settings({PREFECT_API_URL: url}))
        yield


@contextlib.contextmanager
def _variables(values: Mapping[str, str]) -> Iterator[None]:
    """Set variables of the environment; afterwards they are as before."""
    former = {name: os.environ.get(name) for name in values}
    os.environ.update(values)
    try:
        yield
    finally:
        for name, value in former.items():
            if value is None:
                os.environ.pop(name, None)
            else:
                os.environ[name] = value


def _deliver_events() -> None:
    """Send the events that are still queued here: the server learns the states of task runs from them alone."""
    if "prefect.events.worker" in sys.modules:
        from prefect.events.worker import EventsWorker

        EventsWorker.drain_all(timeout=STOP_LIMIT_S)
    if "prefect.logging.handlers" in sys.modules:
        from prefect.logging.handlers import APILogWorker

        APILogWorker.drain_all(timeout=STOP_LIMIT_S)


def prefect_home() -> Path:
    """The folder of Prefect's database and profiles."""
    return Path(os.environ.get("PREFECT_HOME") or "~/.prefect").expanduser()


def configured_api_url() -> str | None:
    """The API that the user named, where Prefect itself looks for it, in its order; None when there is none.

    The environment, `.env`, `prefect.toml` and `pyproject.toml` of this folder, the active profile.
    """
    configured = _configured_api()
    return configured[0] if configured else None


def _configured_api() -> tuple[str, str] | None:
    """Return the API that the user named, and in words by what."""
    profile, name, file = _active_profile()
    pyproject = _toml(Path("pyproject.toml")).get("tool", {}).get("prefect", {})
    candidates = (
        (os.environ.get("PREFECT_API_URL"), "PREFECT_API_URL in the environment"),
        (_dotenv(Path(".env")).get("PREFECT_API_URL"), "PREFECT_API_URL in .env"),
        (_toml(Path("prefect.toml")).get("api", {}).get("url"), "api.url in prefect.toml"),
        (pyproject.get("api", {}).get("url"), "tool.prefect.api.url in pyproject.toml"),
        (profile.get("PREFECT_API_URL"), f"PREFECT_API_URL of Prefect's profile {name!r}, which is active ({file})"),
    )
    return next(((url, named_by) for url, named_by in candidates if url), None)


def _active_profile() -> tuple[Mapping[str, Any], str | None, Path]:
    """Return the settings and the name of the active profile, and the user's file of profiles.

    The user's profiles are laid over those that Prefect came with, which are in no file of the user's:
    `prefect profile use local` writes that name alone.
    """
    file = Path(os.environ.get("PREFECT_PROFILES_PATH") or prefect_home() / "profiles.toml")
    own = _toml(file)
    package = importlib.util.find_spec("prefect")  # imports nothing
    assert package is not None
    assert package.origin is not None
    packaged = _toml(Path(package.origin).with_name("settings") / "profiles.toml")
    active = os.environ.get("PREFECT_PROFILE") or own.get("active") or packaged.get("active")
    settings: dict[str, Any] = {}
    for profiles in (packaged, own):
        settings |= profiles.get("profiles", {}).get(active, {})
    return settings, active, file


def _health(url: str) -> str:
    """Return the address that asks the API at `url` how it is, without a user and password: urllib knows of none."""
    parts = urllib.parse.urlsplit(url)
    return f"{parts.scheme}://{parts.netloc.rpartition('@')[2]}{parts.path.rstrip('/')}/health"


def _dotenv(path: Path) -> Mapping[str, str | None]:
    if not path.is_file():
        return {}
    from dotenv import dotenv_values  # as Prefect reads it

    return dotenv_values(path)


def _toml(path: Path) -> Mapping[str, Any]:
    try:
        return tomllib.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}  # Prefect itself complains about a broken file, with more to say about it
