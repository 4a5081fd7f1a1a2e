"""A local stack of the tests' own: a clone of the project, free ports, and nothing left of it afterwards."""

import json
import os
import random
import shutil
import signal
import socket
import subprocess
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import psutil
import pytest

from genxfer.stack.processes import end_leftovers, members
from genxfer.stack.settings import STACK, Ports
from tests.conftest import REPOSITORY, GenxferRun, clean_environment
from tests.flows.conftest import Server, until

UP_WITHIN_S = 300
WELL_WITHIN_S = 120
GONE_WITHIN_S = 30
QUIET_PORTS = 12_000, 21_000  # ports that no outgoing connection gets by chance, those of gRPC included


def free_port_base() -> int:
    """Return a base from which on all ports that a full stack uses are free."""
    while True:
        base = random.randrange(*QUIET_PORTS, 10)
        ports = [port for some in Ports.from_base(base).used(full=True).values() for port in some]
        with ExitStack() as probes:
            try:
                for port in ports:
                    probes.enter_context(socket.socket()).bind(("127.0.0.1", port))
                return base
            except OSError:
                continue


@dataclass
class Stack:
    """The stack of one project, by its commands."""

    project: Path
    base: int
    genxfer: GenxferRun
    full: bool = False

    @property
    def folder(self) -> Path:
        return self.project / STACK

    @property
    def prefect(self) -> Server:
        return Server(self.base, clean_environment(self.project))

    @property
    def mlflow_url(self) -> str:
        return f"http://127.0.0.1:{self.base + 1}"

    def run(self, *arguments: str) -> "subprocess.CompletedProcess[str]":
        return self.genxfer(self.project, *arguments, timeout_s=UP_WITHIN_S)

    def up(self, *arguments: str) -> "subprocess.CompletedProcess[str]":
        full = ["--full"] if self.full else []
        return self.run("up", *full, "--port-base", str(self.base), *arguments)

    def status(self) -> dict[str, Any]:
        done = self.run("status", "--json")
        told: dict[str, Any] = json.loads(done.stdout)
        assert (done.returncode == 0) == told["healthy"]
        return told

    def part(self, name: str) -> dict[str, Any]:
        [part] = [part for part in self.status()["parts"] if part["name"] == name]
        return part

    def pid(self, name: str) -> int:
        """Return the process id of a part, or of the supervisor."""
        status = self.status()
        return int(status["supervisor"]["pid"] if name == "supervisor" else self.part(name)["pid"])

    def kill(self, name: str) -> int:
        pid = self.pid(name)
        os.kill(pid, signal.SIGKILL)
        return pid

    def secrets(self) -> list[str]:
        """Return the database's password, and the key and the secret of S3."""
        credentials: dict[str, str] = json.loads((self.folder / "credentials/credentials.json").read_text())
        assert len(credentials) == 3
        return list(credentials.values())

    def members(self) -> list[psutil.Process]:
        return members(self.folder)

    def listening(self) -> list[Any]:
        """Return the addresses at which any process of the stack takes connections or datagrams."""
        return [
            connection.laddr
            for process in self.members()
            for connection in process.net_connections("inet")
            if connection.status == psutil.CONN_LISTEN or connection.type == socket.SOCK_DGRAM
        ]

    def until_well(self) -> dict[str, Any]:
        return until(lambda: status if (status := self.status())["healthy"] else None, WELL_WITHIN_S)

    def until_gone(self) -> None:
        until(lambda: not self.members(), GONE_WITHIN_S)


def make_stack(project: Path, genxfer: GenxferRun, full: bool = False) -> Iterator[Stack]:
    """Yield a stack, up; afterwards it is down, whatever happened."""
    shutil.copy(REPOSITORY / "prefect.yaml", project)
    stack = Stack(project, free_port_base(), genxfer, full)
    try:
        done = stack.up()
        assert done.returncode == 0, done.stderr
        yield stack
        done = stack.run("down")
        assert done.returncode == 0, done.stderr
        assert not stack.members()
    finally:
        end_leftovers(stack.folder)


@pytest.fixture(scope="module")
def small(make_clone: Callable[..., Path], genxfer: GenxferRun) -> Iterator[Stack]:
    yield from make_stack(make_clone(), genxfer)


@pytest.fixture(scope="module")
def full(make_clone: Callable[..., Path], genxfer: GenxferRun) -> Iterator[Stack]:
    yield from make_stack(make_clone(), genxfer, full=True)
