"""A PostgreSQL cluster of the stack's own: found, made once, started as whoever may start it.

The server refuses to run as root, so root lends it to the user `postgres`, who owns the cluster then. It listens on
127.0.0.1 alone, without a Unix socket, and asks everybody for the password.
"""

import contextlib
import os
import pwd
import shutil
import subprocess
from dataclasses import dataclass
from pathlib import Path

import psutil

from genxfer.errors import StoreError
from genxfer.stack.credentials import DATABASE_USER, OWNER_ALONE, Credentials
from genxfer.stack.settings import HOST, Settings

DATABASES = ("prefect", "mlflow")
DEBIAN_FOLDER = Path("/usr/lib/postgresql")
SERVICE_USER = "postgres"
HOW_TO_INSTALL = "Install it (Debian: sudo apt-get install postgresql), or leave out --full."
CONFIGURATION = f"""
# What the stack changes; the rest is as initdb made it. The port comes with the command line.
listen_addresses = '{HOST}'
unix_socket_directories = ''
logging_collector = off
max_connections = 60
shared_buffers = 64MB
log_min_error_statement = panic   # statements may hold what no log should
"""


@dataclass(frozen=True)
class Cluster:
    """The cluster of a stack: its data, and the programs of the version that made it."""

    data: Path
    programs: Path

    @classmethod
    def of(cls, settings: Settings) -> "Cluster":
        """Return the cluster, made or not; raises StoreError when PostgreSQL, or the right version, is missing."""
        data = settings.folder / "postgres" / "data"
        made_by = (data / "PG_VERSION").read_text().strip() if _made(data) else None
        return cls(data, _programs(made_by))

    def make(self, credentials: Credentials) -> None:
        """Create the cluster and its databases, unless they are there; a killed attempt is begun anew."""
        if _made(self.data):
            return
        new = self.data.with_name("data.new")
        shutil.rmtree(new, ignore_errors=True)
        self.data.parent.mkdir(parents=True, exist_ok=True)
        password = self.data.with_name("password")
        password.touch(OWNER_ALONE)
        try:
            password.write_text(credentials.database_password)
            _give_away(self.data.parent, password)
            self._run("initdb", "-D", str(new), "--username", DATABASE_USER, "--pwfile", str(password), *INITDB)
        finally:
            password.unlink()
        with (new / "postgresql.conf").open("a") as file:
            file.write(CONFIGURATION)
        statements = "".join(f"CREATE DATABASE {name};\n" for name in DATABASES)
        self._run("postgres", "--single", "-D", str(new), "postgres", text=statements)
        new.rename(self.data)

    def server_command(self, port: int) -> list[str]:
        """Return the command of the server."""
        server = [str(self.programs / "postgres"), "-D", str(self.data), "-p", str(port)]
        return [*_as_service_user(self.data.parent), *server]

    def remove_stale_lock(self) -> None:
        """Remove the lock of a server that a reboot ended, when its number is another program's now: none could start.

        A lock whose number nobody has is PostgreSQL's own to judge, as its memory may still be in use. A server works
        in the folder of its data, and one that somebody started by hand is none of ours.
        """
        lock = self.data / "postmaster.pid"
        with contextlib.suppress(OSError, ValueError, IndexError, psutil.Error):
            if Path(psutil.Process(int(lock.read_text().split()[0])).cwd()) != self.data.resolve():
                lock.unlink()

    def _run(self, program: str, *arguments: str, text: str = "") -> None:
        command = [*_as_service_user(self.data.parent), str(self.programs / program), *arguments]
        done = subprocess.run(command, input=text, capture_output=True, text=True, cwd="/", env=plain_environment())
        if done.returncode != 0:
            words = "\n  ".join((done.stderr or done.stdout).strip().splitlines()[-8:])
            raise StoreError(f"{program} could not make the database in {self.data.parent}:\n  {words}")


INITDB = ("--auth=scram-sha-256", "--encoding=UTF8", "--locale=C", "--no-instructions")


def _made(data: Path) -> bool:
    return (data / "PG_VERSION").exists()


def _programs(made_by: str | None) -> Path:
    """Return the folder of initdb and postgres: of the version that made the cluster, else the newest."""
    folders = [Path(found).resolve().parent] if (found := shutil.which("initdb")) else []
    debian = [path.parent for path in DEBIAN_FOLDER.glob("*/bin/initdb")]
    folders += sorted(debian, key=lambda path: float(path.parent.name), reverse=True)
    folders = [folder for folder in folders if (folder / "postgres").exists()]
    if not folders:
        raise StoreError(f"--full needs PostgreSQL, and there is no initdb and postgres here. {HOW_TO_INSTALL}")
    fitting = [folder for folder in folders if made_by is None or _version(folder) == made_by]
    if not fitting:
        raise StoreError(
            f"The stack's database was made by PostgreSQL {made_by}, which is not installed any more. Install "
            f"postgresql-{made_by}, or remove .genxfer/stack/postgres, and with it all runs and registered models."
        )
    return fitting[0]


def _version(folder: Path) -> str:
    said = subprocess.run([str(folder / "postgres"), "--version"], capture_output=True, text=True).stdout
    return said.split()[-1 if "(" not in said else 2].split(".")[0]


def _as_service_user(folder: Path) -> list[str]:
    """Return what, before a command, runs it as the user `postgres` when we are root; nothing for anybody else.

    Where that user may not even enter the folders above the cluster, such as /root, it is lent the right to.
    """
    if os.geteuid() != 0:
        return []
    lend = ["setpriv", f"--reuid={SERVICE_USER}", f"--regid={SERVICE_USER}", "--clear-groups", "--pdeathsig=KILL"]
    if _enters(lend, folder):
        return [*lend, "--"]
    return [*lend, "--inh-caps=+dac_override", "--ambient-caps=+dac_override", "--"]


def _enters(prefix: list[str], folder: Path) -> bool:
    try:
        return subprocess.run([*prefix, "test", "-x", str(folder)], stderr=subprocess.DEVNULL).returncode == 0
    except OSError:
        raise StoreError(
            "Root cannot lend PostgreSQL to another user without setpriv (Debian: the package util-linux). "
            "Install it, run as another user, or leave out --full."
        ) from None


def _give_away(*paths: Path) -> None:
    if os.geteuid() != 0:
        return
    try:
        user = pwd.getpwnam(SERVICE_USER)
    except KeyError:
        raise StoreError(
            f"PostgreSQL refuses to run as root, and there is no user {SERVICE_USER}. "
            f"Run as another user, or create that one: useradd --system {SERVICE_USER}"
        ) from None
    for path in paths:
        os.chown(path, user.pw_uid, user.pw_gid)


def plain_environment() -> dict[str, str]:
    """The environment without PostgreSQL's own variables, which would lead it astray."""
    return {name: value for name, value in os.environ.items() if not name.startswith("PG")}
