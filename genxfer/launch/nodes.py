"""The hosts that train together: how many there are, where they meet, and whether this one leads.

The same command runs on each. Told by parameters, else by the variables that torchrun, Kubernetes (Kubeflow's training
operators set torchrun's) and Slurm set. The leading host serves the meeting point, holds the stage's lock, writes
checkpoints and publishes; the others lend their devices. Knows nothing of training.
"""

import ipaddress
import re
import socket
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

from genxfer.errors import ParameterError

DEFAULT_PORT = 29400  # torchrun's, where only a host is named
SLURM_PORTS = range(20_000, 30_000)  # a job's port follows from its number, so that all its hosts name the same


@dataclass(frozen=True)
class Nodes:
    """The hosts of a run; alone by default."""

    count: int = 1
    host: str = ""  # where they meet, "" when alone
    port: int = 0
    leads: bool = True

    @property
    def endpoint(self) -> str:
        """Where they meet, as torchrun wants it."""
        return f"[{self.host}]:{self.port}" if ":" in self.host else f"{self.host}:{self.port}"


ALONE = Nodes()


def find_nodes(asked: Literal["auto"] | int, meeting_point: str | None, environment: Mapping[str, str]) -> Nodes:
    """Return the hosts that train: as many as `asked`, meeting at `meeting_point` (HOST:PORT), else as the environment
    says.

    Raises ParameterError when the meeting point is unknown, is no address, or cannot be reached by name.
    """
    count = _count(environment) if asked == "auto" else asked
    if count == 1 and meeting_point and asked == "auto":
        raise ParameterError(f"--rdzv is {meeting_point!r}, but how many hosts meet there is not known. Add --nodes N.")
    if count == 1:
        return ALONE
    host, port = _split(meeting_point or _meeting_point(environment, count))
    number = _number(environment)
    return Nodes(count, host, port, number == 0 if number is not None else _is_here(host))


def own_address(nodes: Nodes) -> str:
    """Return the address by which the other hosts reach this one: that of the way to the meeting point.

    Raises ParameterError where the meeting point's name is unknown, no way leads there, or it leads to the loopback,
    on which no other host reaches this one: Debian gives a host's own name to 127.0.1.1. Who writes such an address
    means it.
    """
    try:
        family, _, _, _, address = socket.getaddrinfo(nodes.host, nodes.port, type=socket.SOCK_DGRAM)[0]
        with socket.socket(family, socket.SOCK_DGRAM) as probe:
            probe.connect(address)  # sends nothing
            own = str(probe.getsockname()[0])
    except (OSError, UnicodeError) as error:
        raise ParameterError(
            f"The hosts are to meet at {nodes.host!r}, which this one does not know, or knows no way to: "
            f"{_words(error)}. Give a name that all of them know, or an address that all of them reach: --rdzv "
            f"10.0.0.1:{nodes.port}."
        ) from None
    if ipaddress.ip_address(own).is_loopback and not _is_address(nodes.host):
        raise ParameterError(
            f"The hosts meet at {nodes.host!r}, which is {address[0]} on this one (see /etc/hosts): the others could "
            f"not reach it there. Give an address that all of them reach instead of the name: --rdzv "
            f"10.0.0.1:{nodes.port}."
        )
    return own


def _is_address(host: str) -> bool:
    """Return whether `host` is an address itself, not a name of one."""
    try:
        ipaddress.ip_address(host)
    except ValueError:
        return False
    return True


def interface_of(address: str) -> str | None:
    """Return the name of the network interface that has `address`."""
    import psutil

    for name, addresses in psutil.net_if_addrs().items():
        if any(own.address.split("%")[0] == address for own in addresses):
            return str(name)
    return None


def _count(environment: Mapping[str, str]) -> int:
    """Return how many hosts the environment speaks of; within Slurm those of the step, which all run the command."""
    for variable in ("PET_NNODES", "SLURM_STEP_NUM_NODES"):
        if text := environment.get(variable):
            if not text.isdecimal() or int(text) < 1:
                raise ParameterError(f"{variable} is {text!r} in the environment; it must be a fixed number of hosts.")
            return int(text)
    return 1


def _number(environment: Mapping[str, str]) -> int | None:
    """Return which of the hosts this is, None where the environment does not say."""
    for variable in ("PET_NODE_RANK", "SLURM_NODEID", "JOB_COMPLETION_INDEX"):
        if (text := environment.get(variable, "")).isdecimal():
            return int(text)
    return None


def _meeting_point(environment: Mapping[str, str], count: int) -> str:
    if endpoint := environment.get("PET_RDZV_ENDPOINT"):
        return endpoint
    for prefix in ("PET_", ""):
        if host := environment.get(f"{prefix}MASTER_ADDR"):
            port = environment.get(f"{prefix}MASTER_PORT", DEFAULT_PORT)
            return f"[{host}]:{port}" if ":" in host else f"{host}:{port}"
    hosts = environment.get("SLURM_STEP_NODELIST") or environment.get("SLURM_JOB_NODELIST")
    if hosts and (job := environment.get("SLURM_JOB_ID", "")).isdecimal():
        return f"{first_host(hosts)}:{SLURM_PORTS[int(job) % len(SLURM_PORTS)]}"
    raise ParameterError(
        f"compute.nodes is {count}, but where the hosts meet is not known. Give --rdzv HOST:PORT, the same on each "
        "host and an address of the first, or set PET_RDZV_ENDPOINT."
    )


def first_host(hosts: str) -> str:
    """Return the first of a list of hosts as Slurm writes it: node[07-09,12],other -> node07."""
    found = re.match(r"([^\[,]*)(?:\[([^\],-]*)[^\]]*\])?([^\[,]*)", hosts)
    assert found  # every part of it may be empty
    return "".join(part or "" for part in found.groups())


def _split(endpoint: str) -> tuple[str, int]:
    """Return host and port of HOST:PORT, HOST or [ADDRESS]:PORT."""
    found = re.fullmatch(r"(?:\[([^\]]+)\]|([^:\[\]]+))(?::(\d+))?", endpoint)
    port = int(found[3] or DEFAULT_PORT) if found else 0
    if not found or not 0 < port < 65536:
        raise ParameterError(
            f"The meeting point is {endpoint!r}; it must be HOST:PORT with a port from 1 to 65535, such as "
            f"10.0.0.1:{DEFAULT_PORT}."
        )
    return found[1] or found[2], port


def _words(error: OSError | UnicodeError) -> str:
    """Return why a name leads nowhere; Python itself refuses one with an empty part, or with one of 64 letters."""
    return "no host can be called so" if isinstance(error, UnicodeError) else error.strerror or str(error)


def _is_here(host: str) -> bool:
    """Return whether `host` is an address of this machine: one that a socket can be bound to."""
    try:
        known = socket.getaddrinfo(host, 0, type=socket.SOCK_STREAM)
    except (OSError, UnicodeError) as error:
        raise ParameterError(
            f"The meeting point's host {host!r} is not known here ({_words(error)}). Give an address or name that "
            "every host can reach."
        ) from None
    for family, kind, protocol, _, address in known:
        with socket.socket(family, kind, protocol) as probe:
            try:
                probe.bind(address)
            except OSError:
                continue
            return True
    return False
