"""What every scenario does before its first stage."""

from genxfer.config import Params, check
from genxfer.stages import preflight_flow
from tasks.logs import connect_logs
from tasks.worker import follow_worker


def begin(params: Params) -> Params:
    """Connect this run, and return `params` checked and pinned.

    A form can hold what no single field forbids; and there is to be one source model for the whole run, whatever its
    alias comes to mean meanwhile.
    """
    connect()
    check(params)
    return preflight_flow(params)


def connect() -> None:
    """Send this run's log to its page, and end it with its worker."""
    connect_logs()
    follow_worker()
