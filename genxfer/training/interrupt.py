"""Ctrl-C, SIGTERM and a closed terminal ask training to stop; between two steps it does, with its checkpoint written.

Signals reach the main thread only. In another thread (Prefect may run a task in one) nobody's handler is touched, and
a cancellation arrives as an exception instead, which the engine expects anywhere. Knows nothing of training.

One stop is often told twice by nobody's will: an interactive shell and then the kernel send SIGHUP when a terminal is
closed, systemd sends SIGTERM and SIGHUP together at a logout. So only a person's second Ctrl-C cuts a stop short.
"""

import contextlib
import signal
import threading
import time
from collections.abc import Callable, Iterator
from types import FrameType, TracebackType
from typing import Any, Self

SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
IMPATIENT_AFTER_S = 1.0  # a SIGINT that follows sooner is the same Ctrl-C, passed on by another process


class Interrupted(KeyboardInterrupt):
    """A signal asked training to stop, and it did, in good order; `signal_number` says which."""

    def __init__(self, signal_number: int) -> None:
        super().__init__(f"training was stopped by {signal.Signals(signal_number).name}")
        self.signal_number = signal_number


class Interrupts:
    """Within the `with` block a first signal is only noted in `received`; a second Ctrl-C does not wait.

    Afterwards the handlers are the former ones again, and a noted signal is handed on to them: Prefect's handler, or
    Python's, answers as it would have. Where it does not raise, or there was none, Interrupted is raised.
    """

    def __init__(self) -> None:
        self.received: int | None = None
        self._received_s = 0.0
        self._former: dict[int, Any] = {}

    def __enter__(self) -> Self:
        self._former = _hear(self._note)
        return self

    def _note(self, number: int, frame: FrameType | None) -> None:
        if self.received is None:
            self.received, self._received_s = number, time.monotonic()
        elif _impatient(number, self._received_s):
            raise Interrupted(number)

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        _restore(self._former)
        if self.received is not None and error is None:
            self._hand_on(self.received)

    def _hand_on(self, number: int) -> None:
        former: Callable[[int, FrameType | None], Any] | int = self._former[number]
        if callable(former):
            former(number, None)
        raise Interrupted(number)


@contextlib.contextmanager
def stopping() -> Iterator[None]:
    """Within the `with` block, in which a stop is under way, no signal is heard but a second Ctrl-C: Interrupted."""
    began_s = time.monotonic()

    def note(number: int, frame: FrameType | None) -> None:
        if _impatient(number, began_s):
            raise Interrupted(number)

    former = _hear(note)
    try:
        yield
    finally:
        _restore(former)


def _impatient(number: int, stopped_s: float) -> bool:
    """Whether the signal is a person's who does not want to wait for what was asked for at `stopped_s`."""
    return number == signal.SIGINT and time.monotonic() - stopped_s >= IMPATIENT_AFTER_S


def _hear(handler: Callable[[int, FrameType | None], None]) -> dict[int, Any]:
    """Let `handler` answer the signals, and return who did before: in the main thread, else nobody."""
    former: dict[int, Any] = {}
    if threading.current_thread() is threading.main_thread():
        for number in SIGNALS:
            before = signal.getsignal(number)
            # Ignored on purpose (nohup), or handled outside Python: neither is ours to replace.
            if before not in (signal.SIG_IGN, None):
                former[number] = before
                signal.signal(number, handler)
    return former


def _restore(former: dict[int, Any]) -> None:
    for number, handler in former.items():
        signal.signal(number, handler)
