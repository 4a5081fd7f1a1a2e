"""How a process ends: in good order, but without Python taking the interpreter apart, object by object.

With torch and mlflow loaded that takes a second, after which the system frees all memory anyway: a second in which a
user waits for the prompt, and one of the ten that a spot eviction grants.
"""

import atexit
import contextlib
import os
import sys
from collections.abc import Callable
from typing import NoReturn


def end_with(main: Callable[[], int | None]) -> NoReturn:
    """Run `main` and end the process with the exit code that it returns, or that of the SystemExit it raises.

    Threads that are no daemons are waited for and exit handlers run, as ever; then the process ends at once. To be
    called first of all: handlers run in the reverse order, and the last one has to be this one. What `main` does not
    catch is told as Python tells it, with the exit code 1.
    """
    code: int | None = None

    def leave() -> None:
        if code is None:
            return
        with contextlib.suppress(OSError, ValueError):  # nobody reads, or closed
            sys.stderr.flush()
        try:
            sys.stdout.flush()
        except (OSError, ValueError):
            return  # Python says so, and ends with 120
        os._exit(code)

    atexit.register(leave)
    try:
        ended = main() or 0
    except SystemExit as exit_:
        if not isinstance(exit_.code, int | None):  # a message
            raise
        ended = exit_.code or 0
    except Exception:
        sys.excepthook(*sys.exc_info())
        ended = 1
    code = ended
    sys.exit(ended)
