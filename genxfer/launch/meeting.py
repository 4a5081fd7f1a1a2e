"""Before hosts meet: wait until the name of their meeting point is known, as it need not be while its host starts.

A cluster gives a pod's name to the others only once the pod is placed and has an address. Called when there is work to
share out, not before: what is in the store needs nobody else. Knows nothing of training.
"""

import logging
import socket
import time
from collections.abc import Callable

from genxfer.errors import TrainingError
from genxfer.launch.launcher import MEET_WITHIN_S
from genxfer.launch.nodes import Nodes

logger = logging.getLogger("genxfer.launch")

ASK_EVERY_S = 1.0


def wait_until_known(
    nodes: Nodes, within_s: float = MEET_WITHIN_S, pause: Callable[[float], object] = time.sleep
) -> None:
    """Return when the name at which `nodes` meet leads to an address, at once where there is one host alone.

    Raises TrainingError when it does not within `within_s`: another try may find it, so that it is no wrong parameter.
    """
    if nodes.count == 1:
        return
    deadline_s = time.monotonic() + within_s
    told = False
    while (why := _unknown(nodes)) is not None:
        if time.monotonic() >= deadline_s:
            raise TrainingError(
                f"The hosts are to meet at {nodes.host!r}, a name that this one did not come to know within "
                f"{within_s:g} s ({why}). Start the host that has it, or correct the name where it is given: --rdzv, "
                "PET_RDZV_ENDPOINT or MASTER_ADDR. The same command goes on from what is there."
            )
        if not told:
            logger.info(
                "The hosts are to meet at %r, which is not known yet (%s): waiting for it, at most %g s.",
                nodes.host,
                why,
                within_s,
            )
            told = True
        pause(ASK_EVERY_S)


def _unknown(nodes: Nodes) -> str | None:
    """Return why the name is not known; None where it is, or can be no name, which is told where it is used."""
    try:
        socket.getaddrinfo(nodes.host, nodes.port, type=socket.SOCK_DGRAM)
    except OSError as error:
        return error.strerror or str(error)
    except UnicodeError:
        return None
    return None
