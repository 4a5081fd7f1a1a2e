"""What every scenario does before its first stage."""

from genxfer.config import Params, check
from genxfer.stages import preflight
from tasks.logs import connect_logs
from tasks.worker import follow_worker


def begin(params: Params) -> Params:
    """Connect this run's logs, end with its worker, and return `params` checked and pinned.

    A form can hold what no single field forbids; and there is to be one source model for the whole run, whatever its
    alias comes to mean meanwhile.
    """
    connect_logs()
    follow_worker()
    check(params)
    return preflight(params)
