"""A lock that dies with its holder, on a server that knows no processes: a lease, renewed while the holder lives.

The lease is an object, made only where there is none (If-None-Match), and renewed, taken over and removed only as it
was last seen (If-Match). Whether it has expired is judged by the server's clock alone: the time of its last renewal
against the time of the server's answer. Each renewal changes its content, so its ETag tells a renewed one from one
that may be taken over (Gray & Cheriton 1989, "Leases"). Knows nothing of what is guarded. Raises boto3's errors.
"""

import contextlib
import json
import logging
import os
import random
import secrets
import socket
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass

from genxfer.artifacts.s3_client import Bucket, Content

LEASE_S = 30.0
CLOCK_TICK_S = 1.0  # S3 tells times in whole seconds
RENEWALS_PER_LEASE = 3
LONGEST_POLL_S = 1.0

logger = logging.getLogger("genxfer.artifacts")


@dataclass(frozen=True)
class Holder:
    """Who holds a lease, and what it promised."""

    host: str
    pid: int
    token: str
    renewals: int
    lease_s: float

    def __str__(self) -> str:
        return f"pid {self.pid} on {self.host}"


def holder_of(lease: Content) -> Holder | None:
    """Return who holds the lease, None when it has expired; one that cannot be read is somebody's nevertheless."""
    try:
        holder = Holder(**json.loads(lease.data))
        expires_s = float(holder.lease_s)
    except (ValueError, TypeError):
        holder, expires_s = Holder("an unknown host", 0, "", 0, LEASE_S), LEASE_S
    return holder if lease.age_s <= expires_s + CLOCK_TICK_S else None


@contextlib.contextmanager
def leased(
    bucket: Bucket, key: str, lease_s: float = LEASE_S, on_wait: Callable[[str], None] | None = None
) -> Iterator["Lease"]:
    """Hold the lease `key` for the length of the `with` block; `on_wait` is told once who must be waited for."""
    lease = Lease(bucket, key, lease_s)
    lease.take(on_wait)
    keeper = threading.Thread(target=lease.keep, name="genxfer-lease", daemon=True)
    keeper.start()
    owner = os.getpid()
    try:
        yield lease
    finally:
        if os.getpid() == owner:  # a forked child has neither the thread nor the lease
            lease.ended.set()
            keeper.join()
            lease.let_go()


class Lease:
    """One holder's side of a lease; `lost` once another has taken it over."""

    def __init__(self, bucket: Bucket, key: str, lease_s: float) -> None:
        self.lost = False
        self.ended = threading.Event()
        self._bucket, self._key, self._lease_s = bucket, key, lease_s
        self._token = secrets.token_hex(16)
        self._renewals = 0
        self._etag = ""

    def take(self, on_wait: Callable[[str], None] | None = None) -> None:
        """Return when the lease is ours."""
        while True:
            current = self._bucket.get(self._key)
            holder = None if current is None or self._is_ours(current) else holder_of(current)
            if holder is None:
                if self._put(current):
                    if current is not None and not self._is_ours(current):  # the answer to an earlier put was lost
                        logger.warning("the lease %s had expired and was taken over: its holder is gone", self._key)
                    return
                continue  # somebody else was faster
            if on_wait is not None:
                on_wait(str(holder))
                on_wait = None
            time.sleep(min(LONGEST_POLL_S, self._lease_s / 5) * random.uniform(0.5, 1))

    def keep(self) -> None:
        """Renew the lease until it has ended or is lost."""
        while not self.lost and not self.ended.wait(self._lease_s / RENEWALS_PER_LEASE):
            try:
                self._renew()
            except Exception as error:  # whatever it is, the work goes on and the next renewal may succeed
                logger.warning("the lease %s could not be renewed (%s): trying again", self._key, type(error).__name__)

    def let_go(self) -> None:
        """Remove the lease if it is still ours; where that fails, it expires."""
        if self.lost:
            return
        try:
            self._bucket.delete(self._key, self._etag, brief=True)
        except Exception as error:
            logger.warning("the lease %s expires by itself (%s)", self._key, type(error).__name__)

    def _renew(self) -> None:
        self._renewals += 1
        if self._put_over(self._etag, brief=True):
            return
        # Perhaps an earlier renewal succeeded and its answer was lost, or somebody has tidied the locks away.
        current = self._bucket.get(self._key)
        if (current is None or self._is_ours(current)) and self._put(current, brief=True):
            return
        self.lost = True
        logger.warning(
            "the lease %s was not renewed in time and is another's now: both may do this work, and the first to "
            "publish wins",
            self._key,
        )

    def _put(self, current: Content | None, brief: bool = False) -> bool:
        return self._put_over(None if current is None else current.etag, brief)

    def _put_over(self, etag: str | None, brief: bool) -> bool:
        """Write our lease over the one with this ETag, or where there is none; False when somebody was faster."""
        holder = Holder(socket.gethostname(), os.getpid(), self._token, self._renewals, self._lease_s)
        content = json.dumps(asdict(holder), sort_keys=True).encode()
        written = self._bucket.put(self._key, content, replaces=etag, brief=brief)
        if written is not None:
            self._etag = written
        return written is not None

    def _is_ours(self, lease: Content | None) -> bool:
        return lease is not None and f'"{self._token}"'.encode() in lease.data
