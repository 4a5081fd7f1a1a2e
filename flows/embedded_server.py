"""The process of the embedded server: `python embedded_server.py LISTENING_FD`, started by `embedded.py`.

Serves Prefect's API, without its web pages, on a socket that it inherits; dies with its parent, whatever the parent
dies of. Knows nothing of stages.
"""

import asyncio
import contextlib
import fcntl
import gc
import os
import socket
import sys
from collections.abc import Iterator
from pathlib import Path

from genxfer.launch.lifeline import die_with_parent

# No schedules, late runs or automations for a server that lives for one run; block types are registered by the first
# `prefect server start`, which leaves the first database creation here at a third of its time.
_SETTINGS = {
    "PREFECT_UI_ENABLED": "false",
    "PREFECT_SERVER_ANALYTICS_ENABLED": "false",
    "DO_NOT_TRACK": "1",
    "PREFECT_API_BLOCKS_REGISTER_ON_START": "false",
    "PREFECT_API_DATABASE_MIGRATE_ON_START": "false",  # `_create_database` does, one process at a time
    "PREFECT_SERVER_SERVICES_TRIGGERS_ENABLED": "false",
    "PREFECT_SERVER_SERVICES_DB_VACUUM_ENABLED": "",
    "PREFECT_SERVER_LOGGING_LEVEL": "ERROR",
}


def main(listening_fd: int) -> None:
    """Serve on the inherited socket until SIGTERM or until the parent is gone."""
    die_with_parent()
    os.environ.update(_SETTINGS)
    gc.disable()  # ten thousand classes are made during this import and none is garbage: 1 s of 7 saved
    import uvicorn
    from prefect.server.api.server import create_app

    _create_database()
    app = create_app(ephemeral=True, final=True)
    gc.enable()
    config = uvicorn.Config(app, log_level="error", lifespan="on", timeout_graceful_shutdown=2)
    uvicorn.Server(config).run(sockets=[socket.socket(fileno=listening_fd)])


def _create_database() -> None:
    from prefect.server.database import provide_database_interface
    from prefect.settings import PREFECT_HOME

    with _exclusive(PREFECT_HOME.value() / ".genxfer-database.lock"):
        asyncio.run(provide_database_interface().create_db())


@contextlib.contextmanager
def _exclusive(path: Path) -> Iterator[None]:
    """Hold a lock that dies with its holder: two first runs at once must not both create the tables."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("w") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        yield


if __name__ == "__main__":
    main(int(sys.argv[1]))
