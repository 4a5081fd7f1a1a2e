"""Which parts the stack of a project has, on which ports, and where it keeps what: `.genxfer/stack` in the project.

Read by every other module of this room; knows no part in particular beyond its name and ports.
"""

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path

from genxfer.artifacts.atomic import write_json_atomic
from genxfer.errors import ParameterError

HOST = "127.0.0.1"
POOL = "genxfer"
STACK = Path(".genxfer") / "stack"

S3_HELPERS = ("master", "volume", "filer", "admin")  # on the ports after that of S3
GRPC_OFFSET = 10_000  # SeaweedFS speaks gRPC on each of its ports + 10000
HIGHEST_PORT = 65_535
HIGHEST_BASE = HIGHEST_PORT - GRPC_OFFSET - len(S3_HELPERS) - 3  # three parts come before S3


@dataclass(frozen=True)
class Ports:
    """The ports of the stack, all on 127.0.0.1."""

    prefect: int = 4200
    mlflow: int = 5000
    postgres: int = 5442
    s3: int = 8333

    @classmethod
    def from_base(cls, base: int) -> "Ports":
        """Return consecutive ports from `base` on: Prefect, MLflow, PostgreSQL, S3."""
        return cls(base, base + 1, base + 2, base + 3)

    def used(self, full: bool) -> dict[str, tuple[int, ...]]:
        """Return the ports of each part; raises ParameterError when some are no ports, or one is used twice."""
        used: dict[str, tuple[int, ...]] = {"prefect": (self.prefect,), "mlflow": (self.mlflow,)}
        if full:
            s3 = tuple(range(self.s3, self.s3 + 1 + len(S3_HELPERS)))
            used |= {"postgres": (self.postgres,), "s3": (*s3, *(port + GRPC_OFFSET for port in s3))}
        ports = [port for some in used.values() for port in some]
        for name, some in used.items():
            for port in some:
                _check_port(name, port)
                if ports.count(port) > 1:
                    raise ParameterError(f"Port {port} would be used twice, by {name} and another part. Choose others.")
        return used


def _check_port(name: str, port: int) -> None:
    if not 1024 <= port <= HIGHEST_PORT:
        why = f" ({name} needs its port + {GRPC_OFFSET} too)" if name == "s3" else ""
        raise ParameterError(f"Port {port} for {name} cannot be; allowed: 1024 to {HIGHEST_PORT}{why}.")


@dataclass(frozen=True)
class Settings:
    """A stack: the project's folder, whether it is the full one, and its ports."""

    project: Path
    full: bool = False
    ports: Ports = field(default_factory=Ports)

    @property
    def folder(self) -> Path:
        """Where the stack keeps everything: data, logs, credentials, state."""
        return self.project / STACK

    @property
    def prefect_url(self) -> str:
        """Where Prefect's pages are; its API is below, at /api."""
        return f"http://{HOST}:{self.ports.prefect}"

    @property
    def mlflow_url(self) -> str:
        """Where MLflow's pages and API are."""
        return f"http://{HOST}:{self.ports.mlflow}"

    @property
    def s3_url(self) -> str:
        """The S3 endpoint of the full stack."""
        return f"http://{HOST}:{self.ports.s3}"

    def log(self, name: str) -> Path:
        """Return the log file of a part."""
        return self.folder / "logs" / f"{name}.log"

    def save(self) -> None:
        """Remember the ports, and what the supervisor is to run."""
        write_json_atomic(self.folder / "settings.json", {"full": self.full, "ports": asdict(self.ports)})


def load_settings(project: Path) -> Settings:
    """Return the settings of the last `up` in this project, or the defaults."""
    try:
        saved = json.loads((project / STACK / "settings.json").read_text())
        return Settings(project, bool(saved["full"]), Ports(**saved["ports"]))
    except FileNotFoundError:
        return Settings(project)
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise ParameterError(
            f"{project / STACK / 'settings.json'} cannot be read ({error}). Remove it; the next `genxfer up` writes it."
        ) from None


def chosen_ports(remembered: Ports, base: int | None, single: Mapping[str, int | None]) -> Ports:
    """Return the ports that the flags ask for; what no flag names stays as it was last time.

    Raises ParameterError when a flag names one for the full stack that cannot be, also if the small one is asked for:
    all of them are remembered, and the full one would fail for a port that nobody named.
    """
    named = {name: port for name, port in single.items() if port is not None}
    ports = replace(remembered if base is None else Ports.from_base(base), **named)
    if base is not None:
        try:
            ports.used(full=True)
        except ParameterError as error:
            raise ParameterError(
                f"--port-base is {base}: {error} From 1024 to {HIGHEST_BASE} there is room for all parts, those of "
                "the full stack too."
            ) from None
    elif named.keys() & {"postgres", "s3"}:
        ports.used(full=True)
    return ports
