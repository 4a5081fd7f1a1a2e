"""A lock between processes that dies with its holder: flock on a file that may stay, so a killed holder blocks nobody.

Knows nothing of what it guards. The errors are the operating system's own (OSError).
"""

import contextlib
import fcntl
import os
from collections.abc import Callable, Iterator
from pathlib import Path

_held_descriptors: set[int] = set()


@contextlib.contextmanager
def exclusive(path: Path, on_wait: Callable[[str], None] | None = None) -> Iterator[None]:
    """Hold the lock file at `path` for the length of the `with` block; raises OSError where it cannot be made.

    When another holder must be waited for, `on_wait` is called once with who that is ("pid 4711").
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    descriptor = _acquire(path, on_wait)
    owner = os.getpid()
    _held_descriptors.add(descriptor)
    try:
        os.ftruncate(descriptor, 0)
        os.pwrite(descriptor, f"pid {owner}".encode(), 0)
        yield
    finally:
        if os.getpid() == owner:  # in a forked child the descriptor is closed already, and its number may be reused
            _held_descriptors.discard(descriptor)
            os.close(descriptor)


def is_held(path: Path) -> bool:
    """Whether a living process holds the lock file at `path`; raises OSError where that cannot be told."""
    try:
        descriptor = os.open(path, os.O_RDONLY)
    except FileNotFoundError:
        return False
    try:
        fcntl.flock(descriptor, fcntl.LOCK_SH | fcntl.LOCK_NB)  # shared: two who only look do not see each other
        return False
    except BlockingIOError:
        return True
    finally:
        os.close(descriptor)


def _acquire(path: Path, on_wait: Callable[[str], None] | None) -> int:
    while True:
        descriptor = os.open(path, os.O_RDWR | os.O_CREAT, 0o666)
        try:
            try:
                fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                if on_wait is not None:
                    on_wait(os.pread(descriptor, 64, 0).decode(errors="replace") or "another process")
                    on_wait = None
                fcntl.flock(descriptor, fcntl.LOCK_EX)
            if _is_still(descriptor, path):
                return descriptor
        except BaseException:
            os.close(descriptor)
            raise
        os.close(descriptor)


def _is_still(descriptor: int, path: Path) -> bool:
    """Whether `path` names the locked file: somebody may have removed the store's locks while we waited."""
    try:
        return os.path.samestat(os.fstat(descriptor), path.stat())
    except FileNotFoundError:
        return False


def _let_go_in_child() -> None:
    # A forked child shares the lock; outliving a killed holder, it would hold on to it for ever.
    for descriptor in _held_descriptors:
        with contextlib.suppress(OSError):
            os.close(descriptor)
    _held_descriptors.clear()


os.register_at_fork(after_in_child=_let_go_in_child)
