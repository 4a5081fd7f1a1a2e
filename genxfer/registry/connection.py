"""A quiet MLflow client that fails in seconds, and errors that a user can act on.

Only the client API is used, never `mlflow.start_run`: the "active run" is global to a process, and a Prefect process
may work on several stages at once. Knows nothing of runs or models.
"""

import base64
import http.client
import logging
import os
import shutil
import urllib.error
import urllib.parse
import urllib.request
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

from genxfer.artifacts.lock import exclusive
from genxfer.errors import RegistryError
from genxfer.registry.config import ARTIFACT_FOLDER, shown_uri, sqlite_file, tracking_uri, without_passwords

if TYPE_CHECKING:
    from mlflow import MlflowClient

EXPERIMENT = "genxfer"
REACH_TIMEOUT_S = 5.0
MESSAGE_LENGTH = 400

# MLflow's own defaults retry a dead server for minutes; a user's setting wins over these.
QUIET_AND_IMPATIENT = {
    "MLFLOW_DISABLE_TELEMETRY": "true",
    "MLFLOW_ENABLE_ARTIFACTS_PROGRESS_BAR": "false",
    "MLFLOW_SUPPRESS_PRINTING_URL_TO_STDOUT": "true",  # standard output is for `genxfer run --json`
    "MLFLOW_HTTP_REQUEST_MAX_RETRIES": "2",
    "MLFLOW_HTTP_REQUEST_BACKOFF_FACTOR": "1",
    "MLFLOW_HTTP_REQUEST_TIMEOUT": "30",
}


def connect() -> "MlflowClient":
    """Return the client of `tracking_uri()`, a local store being made on first use; raises RegistryError."""
    return _client(tracking_uri())


def experiment_id() -> str:
    """Return the id of the experiment that every run belongs to; MLFLOW_EXPERIMENT_NAME renames it."""
    return _experiment(tracking_uri(), os.environ.get("MLFLOW_EXPERIMENT_NAME") or EXPERIMENT)


@contextmanager
def explained(doing: str) -> Iterator[None]:
    """Turn whatever MLflow, its database or its server raises into a RegistryError that says what was being done."""
    try:
        yield
    except RegistryError:
        raise
    except Exception as error:
        check_reachable(tracking_uri())  # says it better, if that is what is wrong
        raise RegistryError(f"{doing} failed in the MLflow store {shown_uri()}: {brief(error)}") from error


def brief(error: Exception) -> str:
    """Return the first line of MLflow's message: no passwords, no chain of causes that HTTP libraries append."""
    lines = without_passwords(str(error)).split(" (Caused by ")[0].splitlines() or [type(error).__name__]
    return lines[0][:MESSAGE_LENGTH]


def all_pages(search: Callable[..., Any], *arguments: Any) -> Iterator[Any]:
    """Yield what all pages of a search by the client have."""
    page = search(*arguments)
    yield from page
    while page.token:
        page = search(*arguments, page_token=page.token)
        yield from page


@lru_cache(maxsize=8)
def _client(uri: str) -> "MlflowClient":
    for name, value in QUIET_AND_IMPATIENT.items():
        os.environ.setdefault(name, value)
    check_reachable(uri)
    from mlflow import MlflowClient

    for name in ("mlflow", "alembic"):
        logging.getLogger(name).setLevel(logging.WARNING)
    with explained("Opening the store"):
        if database := sqlite_file(uri):
            _make_tables(database)
        client = MlflowClient(tracking_uri=uri)
        client.search_experiments(max_results=1)  # creates the tables of a new database, or says why it cannot
    return client


def _make_tables(database: Path) -> None:
    """Make a new SQLite store beside its place and move it there whole: MLflow cannot open one with half its tables."""
    if database.exists():
        return
    from mlflow import MlflowClient

    with exclusive(database.parent / ".genxfer" / f"{database.name}.lock"):
        if database.exists():
            return
        folder = database.parent / ".genxfer" / f"{database.name}.new"
        shutil.rmtree(folder, ignore_errors=True)  # of a killed attempt, with the journal that would be played back
        folder.mkdir()
        MlflowClient(tracking_uri=f"sqlite:///{folder / database.name}").search_experiments(max_results=1)
        os.replace(folder / database.name, database)
        folder.rmdir()


@lru_cache(maxsize=8)
def _experiment(uri: str, name: str) -> str:
    client = _client(uri)
    with explained(f"Opening the experiment {name!r}"):
        if found := client.get_experiment_by_name(name):
            if found.lifecycle_stage == "deleted":
                client.restore_experiment(found.experiment_id)
            return found.experiment_id
        database = sqlite_file(uri)
        location = (database.parent / ARTIFACT_FOLDER).as_uri() if database else None
        try:
            return client.create_experiment(name, artifact_location=location)
        except Exception:  # another process was faster
            if found := client.get_experiment_by_name(name):
                return found.experiment_id
            raise


def check_reachable(uri: str, timeout_s: float | None = None) -> None:
    """Raise RegistryError when nobody answers at an http(s) `uri`; any answer at all, even a refusal, is fine here."""
    if not uri.startswith(("http://", "https://")):
        return
    request = _health_request(uri)
    try:
        urllib.request.urlopen(request, timeout=timeout_s or REACH_TIMEOUT_S).close()
    except urllib.error.HTTPError:
        return
    except (OSError, http.client.HTTPException, ValueError) as error:  # URLError and timeouts among the first
        reason = getattr(error, "reason", error) if isinstance(error, OSError) else type(error).__name__
        if "CERTIFICATE" in str(reason):
            return  # MLflow has settings of its own for certificates, and messages too
        raise RegistryError(
            f"The MLflow server {shown_uri(uri)} does not answer ({reason}). Start it, correct MLFLOW_TRACKING_URI, or "
            "unset MLFLOW_TRACKING_URI to use the file mlflow.db in this folder."
        ) from None


def _health_request(uri: str) -> urllib.request.Request:
    """Return what asks the server at `uri` how it is, user and password as a header: urllib knows no others."""
    try:
        parts = urllib.parse.urlsplit(uri)
        if not parts.hostname or parts.port == 0:
            raise ValueError
    except ValueError:  # whose words may be those of a password
        raise RegistryError(
            f"MLFLOW_TRACKING_URI is {shown_uri(uri)!r}, which is no address such as http://host:5000. Where it has a "
            "password with /, @ or the like, set MLFLOW_TRACKING_USERNAME and MLFLOW_TRACKING_PASSWORD instead."
        ) from None
    userinfo, _, location = parts.netloc.rpartition("@")
    request = urllib.request.Request(f"{parts.scheme}://{location}{parts.path.rstrip('/')}/health")
    if userinfo:
        encoded = base64.b64encode(urllib.parse.unquote(userinfo).encode()).decode()
        request.add_unredirected_header("Authorization", f"Basic {encoded}")
    return request
