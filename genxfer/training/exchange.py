"""Sums over the ranks of one machine within microseconds: memory that all can see, and sockets that are watched.

gloo hands each message from thread to thread on both sides. Where waking a thread is slow, as on virtual machines, that
is a millisecond and more for a sum of sixty numbers (docs/training-speed.md), and a step with BatchNorm takes a dozen.
Here each rank writes its numbers where the others can read them, tells every other by a byte over a socket, and looks
for theirs until they are there; what is large goes piece by piece, small enough to stay in a processor's cache. Made
for a few ranks on processors, of Linux. Knows nothing of nets.
"""

import mmap
import os
import select
import shutil
import socket
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Protocol

import torch
from torch import Tensor

PIECE_BYTES = 1024 * 1024
# A rank writes its next piece elsewhere: others may still read this one. They have, when they tell of their next.
PIECES = 2
LOOKS_FOR_S = 0.01  # before a rank that is far behind is slept on
READY = b"."


class Board(Protocol):
    """Where ranks leave each other notes, such as a torch.distributed.Store."""

    def set(self, key: str, value: str) -> None:
        """Leave a note."""

    def get(self, key: str) -> bytes:
        """Return a note as soon as it is there."""


class Exchange:
    """One rank's connections to all others."""

    def __init__(self, rank: int, size: int, board: Board, patience_s: float) -> None:
        """Connect; returns when all are connected."""
        self.rank, self.size, self.patience_s = rank, size, patience_s
        self.peers: dict[int, socket.socket] = {}
        own = os.memfd_create("genxfer-exchange")
        os.ftruncate(own, PIECES * PIECE_BYTES)
        self.memory = {rank: _mapped(own)}
        folder = tempfile.mkdtemp(prefix="genxfer-")  # of this user alone
        with socket.socket(socket.AF_UNIX) as listener:
            listener.bind(os.path.join(folder, "rank"))
            listener.listen(size)
            listener.settimeout(patience_s)
            board.set(f"exchange_{rank}", folder)
            for peer in range(rank):
                connection = socket.socket(socket.AF_UNIX)
                connection.connect(os.path.join(board.get(f"exchange_{peer}").decode(), "rank"))
                self._meet(connection, own)
            for _ in range(rank + 1, size):
                self._meet(listener.accept()[0], own)
        os.close(own)
        shutil.rmtree(folder)
        self._piece = 0

    def total(self, values: Tensor) -> Tensor:
        """Return the sum of `values` over all ranks: in their order, so to the same bits on each.

        Raises ConnectionError when a rank is gone.
        """
        total = values.detach().clone(memory_format=torch.contiguous_format)
        self.sum_(total)
        return total

    def sum_(self, values: Tensor, divisor: int = 1) -> None:
        """Replace contiguous `values` by their sum over all ranks, as `total` returns it, divided by `divisor`."""
        for own in values.view(-1).split(PIECE_BYTES // values.element_size()):
            pieces = [self._shared(rank, own) for rank in range(self.size)]
            self._piece = (self._piece + 1) % PIECES
            pieces[self.rank].copy_(own)
            self._wait_for_all()
            torch.add(pieces[0], pieces[1], out=own)
            for piece in pieces[2:]:
                own += piece
            if divisor != 1:
                own /= divisor

    def close(self) -> None:
        """Leave."""
        for connection in self.peers.values():
            connection.close()

    def _meet(self, connection: socket.socket, own: int) -> None:
        """Tell a peer who this is and where it writes; learn the same of the peer."""
        connection.settimeout(self.patience_s)
        socket.send_fds(connection, [self.rank.to_bytes(4, "little")], [own])
        name, shared, *_ = socket.recv_fds(connection, 4, 1)
        if not shared:
            raise ConnectionError("a rank left before all were connected")
        peer = int.from_bytes(name, "little")
        self.memory[peer] = _mapped(shared[0])
        os.close(shared[0])
        connection.settimeout(None)
        self.peers[peer] = connection

    def _shared(self, rank: int, like: Tensor) -> Tensor:
        """Return the place of a rank's present piece, for as many numbers as `like` has."""
        start = self._piece * PIECE_BYTES
        return self.memory[rank][start : start + like.nbytes].view(like.dtype)

    def _wait_for_all(self) -> None:
        """Return when every rank has written its piece; the sockets also order what processors write and read."""
        for peer, connection in self.peers.items():
            with _naming(peer):
                connection.sendall(READY)
        for peer, connection in self.peers.items():
            with _naming(peer):
                self._wait_for(connection)

    def _wait_for(self, connection: socket.socket) -> None:
        """Return when the peer has told that it is ready."""
        looks_until_s = time.perf_counter() + LOOKS_FOR_S
        while True:
            try:
                told = connection.recv(len(READY), socket.MSG_DONTWAIT)
            except BlockingIOError:
                os.sched_yield()
                if time.perf_counter() > looks_until_s:
                    self._sleep_on(connection)
                continue
            if not told:
                raise ConnectionResetError
            return

    def _sleep_on(self, connection: socket.socket) -> None:
        """Wait for a peer that draws samples or writes a checkpoint."""
        poll = select.poll()
        poll.register(connection, select.POLLIN)
        if not poll.poll(self.patience_s * 1000):
            raise TimeoutError(f"has said nothing for {self.patience_s:g} s")


def available() -> bool:
    """Return whether this system shares memory the way that is used here."""
    return hasattr(os, "memfd_create")


def _mapped(descriptor: int) -> Tensor:
    """Return the bytes of a rank's pieces, in place."""
    return torch.frombuffer(mmap.mmap(descriptor, PIECES * PIECE_BYTES), dtype=torch.uint8)


@contextmanager
def _naming(peer: int) -> Iterator[None]:
    """Say which rank it is that failed."""
    try:
        yield
    except (BrokenPipeError, ConnectionResetError):
        raise ConnectionError(f"rank {peer} is gone") from None
    except TimeoutError as error:
        raise ConnectionError(f"rank {peer} {error}") from None
