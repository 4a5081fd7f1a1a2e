"""The process that starts the parts, watches them, and ends them: python -m genxfer.stack.supervisor PROJECT.

SIGTERM ends the stack, part by part in the reverse order, worker first; so does the end of our parent, the warden.
SIGHUP tries again what was given up. What it knows stands in `state.json`, for `genxfer status`; on a
full disk it goes on without.
"""

import logging
import os
import signal
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

from genxfer.artifacts.atomic import write_json_atomic
from genxfer.launch.identity import Identity
from genxfer.launch.lifeline import PARENT_VARIABLE, stop_with_parent
from genxfer.stack.logs import bound
from genxfer.stack.parts import parts
from genxfer.stack.running import WELL, Running
from genxfer.stack.settings import Settings, load_settings

TICK_S = 0.2
HEARTBEAT_S = 5.0

logger = logging.getLogger("genxfer.stack")


class Supervisor:
    """The loop over all parts."""

    def __init__(self, settings: Settings) -> None:
        self.settings = settings
        described = parts(settings)
        self._threads = ThreadPoolExecutor(2 * len(described), "health")
        self._running = [Running(part, settings.folder, settings.log(part.name), self._threads) for part in described]
        self._identity = Identity.of(os.getpid())
        self._since_s = time.time()
        self._stopping = self._retrying = False
        self._retries = 0  # so that who sent SIGHUP knows when it has been heard
        self._written: tuple[float, Any] = (0.0, None)
        self._silenced = False

    def run(self) -> None:
        """Keep the parts running until SIGTERM, then end them all."""
        signal.signal(signal.SIGTERM, self._stop)
        signal.signal(signal.SIGHUP, self._retry)
        stop_with_parent()
        while not self._stopping:
            self._step()
            time.sleep(TICK_S)
        logger.info("stopping")
        for running in reversed(self._running):
            self._tell()
            running.stop()
        self._tell()
        self._threads.shutdown(wait=False, cancel_futures=True)

    def _step(self) -> None:
        if self._retrying:
            self._retrying = False
            self._retries += 1
            for running in self._running:
                running.retry()
        for running in self._running:
            running.step([one.part.name for one in self._running if one.state in WELL])
        self._tell()

    def _tell(self) -> None:
        """Write what has changed, and every few seconds that we are alive."""
        parts = [running.describe() for running in self._running]
        state = {"stopping": self._stopping, "retries": self._retries, "parts": parts}
        if state != self._written[1] or time.monotonic() - self._written[0] > HEARTBEAT_S:
            assert self._identity is not None
            told = {"supervisor": vars(self._identity), "since": self._since_s, "heartbeat": time.time()}
            if self._write(told | state):
                self._written = (time.monotonic(), state)
            for log in (self.settings.folder / "logs").glob("*.log"):
                bound(log)

    def _write(self, told: dict[str, Any]) -> bool:
        """Write it down; where that cannot be done, as on a full disk, say so once, and try again at the next tick."""
        try:
            write_json_atomic(self.settings.folder / "state.json", told)
        except OSError as error:
            if not self._silenced:
                logger.warning("state.json cannot be written: %s", error)
            self._silenced = True
            return False
        self._silenced = False
        return True

    def _stop(self, number: int, frame: object) -> None:
        self._stopping = True

    def _retry(self, number: int, frame: object) -> None:
        self._retrying = True


def main(project: Path) -> None:
    """Supervise the stack of a project."""
    logging.basicConfig(format="%(asctime)s %(message)s", level=logging.INFO)
    if os.getppid() != int(os.environ.pop(PARENT_VARIABLE)):
        sys.exit("the warden is gone already")
    Supervisor(load_settings(project)).run()


if __name__ == "__main__":
    main(Path(sys.argv[1]))
