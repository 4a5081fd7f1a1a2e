"""Whether the ports of the stack are free, and who has them if not. Knows nothing of what will listen there."""

import contextlib
import errno
import socket

import psutil

from genxfer.errors import ParameterError
from genxfer.stack.settings import HOST, Settings

COMMAND_LENGTH = 80


def check_ports(settings: Settings) -> None:
    """Raise ParameterError when a port of the stack is taken; the message says by whom, and what to do."""
    for name, ports in settings.ports.used(settings.full).items():
        for port in ports:
            if _taken(port):
                raise ParameterError(
                    f"Port {port}, which {name} would use, is taken by {_holder(port)}. Stop that, or choose other "
                    f"ports: genxfer up --{name}-port N, or --port-base N for all."
                )


def _taken(port: int) -> bool:
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)  # connections that are only fading do not count
        try:
            probe.bind((HOST, port))
        except OSError as error:
            return error.errno in (errno.EADDRINUSE, errno.EACCES)
    return False


def _holder(port: int) -> str:
    """Return who listens at `port`, as far as we may know."""
    with contextlib.suppress(psutil.Error):
        for connection in psutil.net_connections(kind="tcp"):
            if connection.laddr and connection.laddr.port == port and connection.pid:
                command = " ".join(psutil.Process(connection.pid).cmdline())
                return f"process {connection.pid} ({command[:COMMAND_LENGTH]})"
    return "another process (of another user: `ss -ltnp` tells root which)"
