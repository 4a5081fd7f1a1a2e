"""A flow run that a worker started ends when the worker does, however that went: nobody else would ever stop it."""

import os

from genxfer.launch.lifeline import stop_with_parent


def follow_worker() -> None:
    """Ask to be terminated, as by a cancellation, when the worker is gone; nothing happens without a worker."""
    if "PREFECT__FLOW_RUN_ID" in os.environ:  # how a worker tells the process which run it is
        stop_with_parent()
