"""Ctrl-C, SIGTERM and a closed terminal ask training to stop; between two steps it does, with its checkpoint written.

Signals reach the main thread only. In another thread (Prefect may run a task in one) nobody's handler is touched, and
a cancellation arrives as an exception instead, which the engine expects anywhere. Knows nothing of training.
"""

import signal
import threading
from collections.abc import Callable
from types import FrameType, TracebackType
from typing import Any, Self

SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)


class Interrupted(KeyboardInterrupt):
    """A signal asked training to stop, and it did, in good order; `signal_number` says which."""

    def __init__(self, signal_number: int) -> None:
        super().__init__(f"training was stopped by {signal.Signals(signal_number).name}")
        self.signal_number = signal_number


class Interrupts:
    """Within the `with` block a first signal is only noted in `received`; a second one does not wait.

    Afterwards the handlers are the former ones again, and a noted signal is handed on to them: Prefect's handler, or
    Python's, answers as it would have. Where it does not raise, or there was none, Interrupted is raised.
    """

    def __init__(self) -> None:
        self.received: int | None = None
        self._former: dict[int, Any] = {}

    def __enter__(self) -> Self:
        if threading.current_thread() is threading.main_thread():
            for number in SIGNALS:
                former = signal.getsignal(number)
                # Ignored on purpose (nohup), or handled outside Python: neither is ours to replace.
                if former not in (signal.SIG_IGN, None):
                    self._former[number] = former
                    signal.signal(number, self._note)
        return self

    def _note(self, number: int, frame: FrameType | None) -> None:
        if self.received is not None:
            raise Interrupted(number)
        self.received = number

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        for number, former in self._former.items():
            signal.signal(number, former)
        if self.received is not None and error is None:
            self._hand_on(self.received)

    def _hand_on(self, number: int) -> None:
        former: Callable[[int, FrameType | None], Any] | int = self._former[number]
        if callable(former):
            former(number, None)
        raise Interrupted(number)
