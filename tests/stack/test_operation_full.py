"""A flow on the full stack: its results on S3, its books in PostgreSQL, which is killed and stopped under it."""

import os
import signal

import pytest

from tests.flows.conftest import until
from tests.stack.conftest import WELL_WITHIN_S, Stack
from tests.stack.operation import ALONE, LONG, Operation

pytestmark = [pytest.mark.slow, pytest.mark.service, pytest.mark.timeout(1200)]


@pytest.mark.parametrize(("number", "seed"), [(signal.SIGKILL, 21), (signal.SIGINT, 22)])
def test_postgresql_restarted_under_a_running_flow(full: Stack, number: int, seed: int) -> None:
    """The run ends well or says why it did not; the next one is fine either way, and trains nothing twice."""
    operation = Operation(full)
    run = operation.start(operation.parameters(seed, **LONG))
    operation.until_it_trains()
    before = full.part("postgres")["restarts"]
    os.kill(full.pid("postgres"), number)
    until(lambda: full.part("postgres")["restarts"] > before or None, WELL_WITHIN_S)
    ended = operation.end(run)
    assert ended["type"] == "COMPLETED" or ended["message"], ended
    full.until_well()
    following = operation.start(operation.parameters(seed, **ALONE))
    assert operation.end(following)["type"] == "COMPLETED"
    if ended["type"] == "COMPLETED":
        assert set(operation.tasks(following).values()) == {"Cached"}
