"""Whether a part does its work: asked over HTTP, or of PostgreSQL's own program. A check answers what is wrong."""

import base64
import http.client
import json
import subprocess
import time
import urllib.error
import urllib.request
from collections.abc import Callable
from datetime import datetime
from pathlib import Path
from typing import Any

from genxfer.stack.postgres import plain_environment

TIMEOUT_S = 10.0
TRIES = 5
BUSY = 503  # Prefect, while its SQLite is locked
MESSAGE_LENGTH = 200

Check = Callable[[float], str | None]  # given when the process started, in seconds since 1970


def ask(url: str, body: Any = None, method: str | None = None, credentials: str | None = None) -> Any:
    """Return the JSON that `url` answers, to a POST of `body` if there is one, or another `method`; raises OSError.

    `credentials` are user:password. A server that is busy is asked again, a few times.
    """
    for attempt in range(TRIES):
        try:
            with _open(url, body, method, credentials) as response:
                content = response.read()
            return json.loads(content) if content else None
        except (http.client.HTTPException, ValueError) as error:
            raise OSError(f"{url} broke off, or answers what is no JSON: {type(error).__name__}: {error}") from error
        except urllib.error.HTTPError as error:
            if error.code != BUSY or attempt + 1 == TRIES:
                raise
        time.sleep(0.5)


def _open(url: str, body: Any, method: str | None = None, credentials: str | None = None) -> Any:
    """Open the address without a proxy in between."""
    data = None if body is None else json.dumps(body).encode()
    request = urllib.request.Request(url, data, {"Content-Type": "application/json"}, method=method)
    if credentials:
        encoded = base64.b64encode(credentials.encode()).decode()
        request.add_unredirected_header("Authorization", f"Basic {encoded}")
    return urllib.request.build_opener(urllib.request.ProxyHandler({})).open(request, timeout=TIMEOUT_S)


def answers(url: str, body: Any = None) -> Check:
    """Return a check that the address answers with success."""

    def check(started_s: float) -> str | None:
        try:
            _open(url, body).close()
        except urllib.error.HTTPError as error:
            return f"{url} answers {error.code}"
        except OSError as error:
            return f"{url}: {getattr(error, 'reason', error)}"[:MESSAGE_LENGTH]
        return None

    return check


def accepts_connections(programs: Path, host: str, port: int) -> Check:
    """Return a check that PostgreSQL takes connections."""

    def check(started_s: float) -> str | None:
        command = [str(programs / "pg_isready"), "-h", host, "-p", str(port), "-t", "5"]
        done = subprocess.run(command, capture_output=True, text=True, env=plain_environment(), timeout=TIMEOUT_S)
        return None if done.returncode == 0 else done.stdout.strip() or done.stderr.strip()

    return check


def works(api_url: str, pool: str, worker: str) -> Check:
    """Return a check that the worker has been heard of in its pool since it started."""

    def check(started_s: float) -> str | None:
        try:
            workers = ask(f"{api_url}/work_pools/{pool}/workers/filter", {})
        except OSError as error:
            return f"{api_url}: {getattr(error, 'reason', error)}"[:MESSAGE_LENGTH]
        for one in workers:
            if one["name"] == worker and one["status"] == "ONLINE":
                heard_s = datetime.fromisoformat(one["last_heartbeat_time"]).timestamp()
                return None if heard_s >= started_s else "not heard of since it started"
        return f"the pool {pool} does not know it as online"

    return check
