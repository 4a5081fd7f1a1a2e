"""The life of one part: waiting, starting, healthy, restarted when it dies, given up after some tries.

`step` is called a few times a second and never waits: a start is prepared, health asked for, and a part ended in
another thread.
"""

import logging
import os
import subprocess
import sys
import time
from collections.abc import Collection
from concurrent.futures import Executor, Future, wait
from pathlib import Path
from typing import Any

from genxfer.launch.lifeline import PARENT_VARIABLE
from genxfer.stack.logs import append_to
from genxfer.stack.parts import Part
from genxfer.stack.processes import PART_VARIABLE, STACK_VARIABLE, end_leftovers

WAITING, STARTING, HEALTHY, UNHEALTHY = "waiting", "starting", "healthy", "unhealthy"
ENDING, RESTARTING, FAILED, DONE, STOPPED = "ending", "restarting", "failed", "done", "stopped"
WELL = (HEALTHY, DONE)

START_LIMIT_S = 180.0  # until it is healthy for the first time: the databases' tables are made then
UNHEALTHY_LIMIT_S = 120.0  # a machine may be busy for a while
STARTING_TRIES = 3  # of a part that has not been healthy since the stack started
TRIES = 5  # in a row, of one that has
STEADY_AFTER_S = 60.0  # healthy for so long: what happened before is forgotten
CHECK_EVERY_S = 10.0
STARTING_CHECK_EVERY_S = 0.5

logger = logging.getLogger("genxfer.stack")


class Running:
    """One part as it is now."""

    def __init__(self, part: Part, folder: Path, log: Path, threads: Executor) -> None:
        self.part, self.folder, self.log = part, folder, log
        self.state, self.since_s, self.message, self.restarts = WAITING, time.time(), "", 0
        self._threads = threads
        self._process: subprocess.Popen[bytes] | None = None
        self._preparation: Future[object] | None = None
        self._check: Future[str | None] | None = None
        self._end: Future[None] | None = None
        self._next_s, self._became_s = 0.0, time.monotonic()  # `since_s` is for people: a clock may be set
        self._started_s = 0.0
        self._tries, self._was_healthy, self._noted = 0, False, True

    def describe(self) -> dict[str, Any]:
        """Return what `genxfer status` says about it."""
        process = self._process
        return {
            "name": self.part.name,
            "title": self.part.title,
            "state": self.state,
            "healthy": self.state in WELL,
            "message": self.message,
            "pid": process.pid if process and process.returncode is None else None,
            "port": self.part.port,
            "url": self.part.url,
            "since": round(self.since_s, 3),
            "restarts": self.restarts,
            "log": str(self.log),
        }

    def step(self, well: Collection[str]) -> None:
        """Do what is due; `well` are the parts that others may rely on."""
        if self.state in (WAITING, RESTARTING):
            self._begin(set(self.part.after) <= set(well))
        elif self.state == ENDING:
            self._after_end()
        elif self._process is not None and (code := self._process.poll()) is not None:
            self._ended(code)
        elif self.state in (STARTING, HEALTHY, UNHEALTHY):
            self._look()

    def retry(self) -> None:
        """Try a part again that was given up."""
        if self.state == FAILED:
            self._tries, self._next_s = 0, 0.0
            self._become(WAITING)

    def stop(self) -> None:
        """End the part and all that it started; return when nothing of it is left."""
        under_way: list[Future[Any]] = [work for work in (self._preparation, self._end) if work is not None]
        wait(under_way)
        self._put_an_end()
        self._become(STOPPED, self.message if self.state == FAILED else "")

    def _begin(self, may: bool) -> None:
        if self._preparation is None:
            if may and time.monotonic() >= self._next_s:
                self._tries += 1
                if self._tries > 1 or self._was_healthy:
                    self.restarts += 1
                self._preparation = self._threads.submit(self.part.before)
        elif self._preparation.done():
            prepared, self._preparation = self._preparation, None
            self._start(prepared)

    def _start(self, prepared: "Future[object]") -> None:
        if (error := prepared.exception()) is not None:
            self._gone_wrong(f"cannot be started: {error}")
            return
        try:
            marks = {STACK_VARIABLE: str(self.folder), PART_VARIABLE: self.part.name}
            with append_to(self.log) as log:
                self._process = subprocess.Popen(
                    [sys.executable, "-m", "genxfer.stack.child", *self.part.command],
                    env={**self.part.environment, **marks, PARENT_VARIABLE: str(os.getpid())},
                    stdin=subprocess.DEVNULL,
                    stdout=log,
                    stderr=log,
                    start_new_session=True,
                )
        except OSError as error:
            self._gone_wrong(f"cannot be started: {error}")
            return
        self._started_s = time.time()
        self._check, self._next_s = None, 0.0
        self._become(STARTING)

    def _ended(self, code: int) -> None:
        if self.part.check is None and code == 0:
            self._process, self._was_healthy = None, True
            self._become(DONE)
        else:
            self._gone_wrong(f"was killed by signal {-code}" if code < 0 else f"ended with code {code}")

    def _look(self) -> None:
        if self.part.check is None:
            if time.monotonic() - self._became_s > START_LIMIT_S:
                self._gone_wrong(f"did not end within {START_LIMIT_S:.0f} s")
        elif self._check is None:
            if time.monotonic() >= self._next_s:
                self._check = self._threads.submit(self.part.check, self._started_s)
        elif self._check.done():
            self._judge(self._complaint())
            self._check = None
            self._next_s = time.monotonic() + (STARTING_CHECK_EVERY_S if self.state == STARTING else CHECK_EVERY_S)

    def _complaint(self) -> str | None:
        assert self._check is not None
        try:
            return self._check.result()
        except Exception as error:
            return f"{type(error).__name__}: {error}"

    def _judge(self, complaint: str | None) -> None:
        for_s = time.monotonic() - self._became_s
        if complaint is None:
            if self.state != HEALTHY:
                self._become(HEALTHY)
                self._was_healthy, self._noted = True, False
            elif for_s > STEADY_AFTER_S:
                self._tries = 0
            self._note()
        elif self.state == HEALTHY:
            self._become(UNHEALTHY, complaint)
        elif for_s > (START_LIMIT_S if self.state == STARTING else UNHEALTHY_LIMIT_S):
            self._gone_wrong(f"was {self.state} for {for_s:.0f} s: {complaint}")
        else:
            self.message = complaint if self.state == UNHEALTHY else ""

    def _note(self) -> None:
        """Do what is to be done once it is healthy; a full disk may have room at the next look."""
        if not self._noted:
            try:
                self.part.once_healthy()
                self._noted = True
            except OSError as error:
                logger.warning("%s: that it is healthy could not be noted: %s", self.part.name, error)

    def _gone_wrong(self, what: str) -> None:
        self._become(ENDING, what)
        self._end = self._threads.submit(self._put_an_end)

    def _after_end(self) -> None:
        assert self._end is not None
        if self._end.done():
            self._end = self._process = None  # else its end would be seen again
            if self._tries >= (TRIES if self._was_healthy else STARTING_TRIES):
                self._become(FAILED, f"{self.message}; given up after {self._tries} tries")
            else:
                self._next_s = time.monotonic() + 2.0 ** (self._tries - 1)
                self._become(RESTARTING, self.message)

    def _put_an_end(self) -> None:
        """Ask the part to stop, wait as long as it may take, then leave nothing of it."""
        process = self._process
        if process is not None:
            if process.poll() is None:
                process.send_signal(self.part.stop_signal)
                try:
                    process.wait(self.part.stop_limit_s)
                except subprocess.TimeoutExpired:
                    process.kill()
            process.wait()
        end_leftovers(self.folder, self.part.name)

    def _become(self, state: str, message: str = "") -> None:
        self.state, self.message = state, message
        self.since_s, self._became_s = time.time(), time.monotonic()
        logger.log(logging.WARNING if message else logging.INFO, "%s: %s %s", self.part.name, state, message)
