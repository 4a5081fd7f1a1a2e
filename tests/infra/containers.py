"""Containers without a container engine: the files of infra/Containerfile, its environment, networks of this machine.

What the image is made of is read from the Containerfile, and what a container is from compose.yaml or from a manifest
of Kubernetes, so that the tests run what an operator runs.
"""

import contextlib
import json
import os
import re
import shlex
import shutil
import signal
import subprocess
import sys
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import psutil
import pytest

from tests.conftest import REPOSITORY, not_possible_here

CONTAINERFILE = REPOSITORY / "infra" / "Containerfile"
CONTAIN = Path(__file__).with_name("contain.py")
USER = 10_001
EMPTY = ("/tmp", "/home/genxfer", "/run", "/var/run")


def instructions() -> list[tuple[str, str]]:
    """Return the instructions of the Containerfile, such as ("USER", "10001:10001"), without comments."""
    lines = [line for line in CONTAINERFILE.read_text().splitlines() if not line.lstrip().startswith("#")]
    joined = re.sub(r"\\\n\s*", " ", "\n".join(lines))
    return [(word, rest.strip()) for word, _, rest in (line.partition(" ") for line in joined.splitlines()) if word]


def image_environment() -> dict[str, str]:
    """Return what the last stage of the Containerfile sets."""
    last = max(number for number, (word, _) in enumerate(instructions()) if word == "FROM")
    words = [pair for word, rest in instructions()[last:] if word == "ENV" for pair in shlex.split(rest)]
    found = dict(pair.split("=", 1) for pair in words)
    path = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"
    return {name: value.replace("$PATH", path).replace("${GIT_COMMIT}", "0" * 40) for name, value in found.items()}


def entrypoint() -> list[str]:
    """Return what starts a container's arguments, and is its process 1, unless a manifest names another command."""
    [words] = [rest for word, rest in instructions() if word == "ENTRYPOINT"]
    found: list[str] = json.loads(words)
    assert shutil.which(found[0]), f"the image starts everything by {found[0]}: run infra/system-packages.sh"
    return found


def copied() -> list[tuple[str, str]]:
    """Return what is copied into the image from the project's folder: (what, where to within /project)."""
    found = []
    for word, rest in instructions():
        *sources, target = rest.split()
        if word == "COPY" and not rest.startswith("--from"):
            found += [(source, target) for source in sources]
    return found


@pytest.fixture(scope="session")
def image(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder /project as the Containerfile fills it."""
    folder = tmp_path_factory.mktemp("image")
    for source, target in copied():
        place = folder / target if not target.endswith("/") else folder / target / source.rpartition("/")[2]
        place.parent.mkdir(parents=True, exist_ok=True)
        if (REPOSITORY / source).is_dir():
            ignore = shutil.ignore_patterns("__pycache__", ".env", "secrets.env")
            shutil.copytree(REPOSITORY / source, place, ignore=ignore, dirs_exist_ok=True)
        else:
            shutil.copy(REPOSITORY / source, place)
    for name in ("artifacts", "data", ".genxfer"):
        (folder / name).mkdir()
    folder.chmod(0o755)
    return folder


@dataclass
class Network:
    """A network namespace in which the given names are known; whatever runs there ends with it."""

    name: str
    folder: Path
    running: list["subprocess.Popen[bytes]"] = field(default_factory=list)
    started: int = 0

    def start(self, container: "Container", log: Path) -> "subprocess.Popen[bytes]":
        """Start `container` here, its output in `log`."""
        self.started += 1
        root = self.folder / f"root-{self.name}-{self.started}"
        root.mkdir()
        spec = self.folder / f"{root.name}.json"
        spec.write_text(json.dumps(container.spec(root)))
        command = [*self.enter(), sys.executable, str(CONTAIN), str(spec)]
        with log.open("ab") as output:
            process = subprocess.Popen(
                command, stdout=output, stderr=output, stdin=subprocess.DEVNULL, start_new_session=True
            )
        self.running.append(process)
        return process

    def run(self, container: "Container", timeout_s: float = 120) -> tuple[int, str]:
        """Run `container` here to its end; return its exit code and what it said."""
        log = self.folder / f"said-{self.name}-{self.started + 1}"
        code = self.start(container, log).wait(timeout_s)
        return code, log.read_text()

    def enter(self) -> list[str]:
        return ["ip", "netns", "exec", self.name]

    def pids(self) -> list[int]:
        told = subprocess.run(["ip", "netns", "pids", self.name], capture_output=True, text=True).stdout
        return [int(pid) for pid in told.split()]


class OwnProcesses(Network):
    """The network of this machine itself; the processes of each container are its own, and end with its first one."""

    def enter(self) -> list[str]:
        return ["unshare", "--mount", "--pid", "--fork", "--kill-child", "--mount-proc"]

    def pids(self) -> list[int]:
        return [process.pid for process in self.running if process.poll() is None]


def first_process(process: "subprocess.Popen[bytes]") -> psutil.Process:
    """Return what is process 1 in a container of `OwnProcesses`, which is sent what the container is sent."""
    [first] = psutil.Process(process.pid).children()
    return first


@dataclass(frozen=True)
class Container:
    """A command with what it finds around it."""

    image: Path
    command: Sequence[str]
    environment: Mapping[str, str]
    volumes: Mapping[str, Path] = field(default_factory=dict)
    user: int = USER

    def spec(self, root: Path) -> dict[str, Any]:
        """Return what contain.py needs to know."""
        for folder in self.volumes.values():
            os.chown(folder, self.user, self.user)
        users = root.with_suffix(".passwd")
        users.write_text(Path("/etc/passwd").read_text() + f"genxfer:x:{USER}:{USER}::/home/genxfer:/bin/sh\n")
        users.chmod(0o644)
        own = {"HOME": "/home/genxfer", "PYTHONPATH": "/project", "LANG": "C.UTF-8", "OMP_NUM_THREADS": "1"}
        libraries = [path for path in os.environ.get("PYTHONPATH", "").split(":") if path and path != str(REPOSITORY)]
        own["PYTHONPATH"] = ":".join(["/project", *libraries])
        return {
            "root": str(root),
            "image": str(self.image),
            "libraries": libraries,
            "empty": EMPTY,
            "command": list(self.command),
            "environment": own | image_environment() | dict(self.environment),
            "volumes": {"/etc/passwd": str(users)} | {target: str(path) for target, path in self.volumes.items()},
            "user": self.user,
        }


@contextlib.contextmanager
def own_processes(name: str, folder: Path) -> Iterator[OwnProcesses]:
    """Yield where containers run in the network of this machine; skip for who may make none."""
    if os.geteuid() != 0:
        not_possible_here("mounts need root")
    found = OwnProcesses(name, folder)
    try:
        yield found
    finally:
        for process in found.running:
            process.kill()  # and with it, by --kill-child, the container's first process, and so all
            process.wait(30)


@contextlib.contextmanager
def network(name: str, folder: Path, hosts: Mapping[str, str]) -> Iterator[Network]:
    """Yield a network namespace in which `hosts` (name: address) are known; skip for who may make none."""
    if os.geteuid() != 0:
        not_possible_here("network namespaces need root")
    assert shutil.which("ip"), "network namespaces need iproute2: run infra/system-packages.sh"
    known = Path("/etc/netns") / name
    found = Network(name, folder)
    try:
        known.mkdir(parents=True)
        lines = ["127.0.0.1 localhost", *(f"{address} {host}" for host, address in hosts.items())]
        (known / "hosts").write_text("\n".join(lines) + "\n")
        (known / "hosts").chmod(0o644)
        subprocess.run(["ip", "netns", "add", name], check=True)
        subprocess.run(["ip", "-n", name, "link", "set", "lo", "up"], check=True)
        yield found
    finally:
        for pid in found.pids():
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        for process in found.running:
            process.wait(30)
        subprocess.run(["ip", "netns", "delete", name], check=False)
        shutil.rmtree(known, ignore_errors=True)
        with contextlib.suppress(OSError):
            known.parent.rmdir()
