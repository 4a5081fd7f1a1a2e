"""What ranks of one machine tell each other within microseconds: by memory that all see, and sockets that are watched.

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
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from typing import Protocol

import torch
from torch import Tensor

PIECE_BYTES = 1024 * 1024
# A rank writes its next piece elsewhere: others may still read this one. They have, when they tell of their next.
PIECES = 2
LOOKS_FOR_S = 0.01  # before a rank that is far behind is slept on
READY = b"."
_OPEN = "/proc/self/fd"


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
        with ExitStack() as stack:
            memory = _new_memory(size) if rank == 0 else None
            folder = tempfile.mkdtemp(prefix="genxfer-")  # of this user alone
            stack.callback(shutil.rmtree, folder)
            listener = stack.enter_context(socket.socket(socket.AF_UNIX))
            with _address(folder) as address:
                listener.bind(address)
            listener.listen(size)
            listener.settimeout(patience_s)
            board.set(f"exchange_{rank}", folder)
            for peer in range(rank):
                connection = socket.socket(socket.AF_UNIX)
                with _address(board.get(f"exchange_{peer}").decode()) as address:
                    connection.connect(address)
                memory = self._meet(connection, memory)
            for _ in range(rank + 1, size):
                memory = self._meet(listener.accept()[0], memory)
        assert memory is not None
        content = mmap.mmap(memory, size * PIECES * PIECE_BYTES)
        os.close(memory)
        self._memory = torch.frombuffer(content, dtype=torch.uint8).view(PIECES, size, PIECE_BYTES)
        self._piece = 0
        self._places: dict[tuple[int, torch.Size, torch.dtype], tuple[Tensor, Tensor]] = {}

    def gather(self, values: Sequence[Tensor]) -> Tensor:
        """Return the equal-shaped `values` [...] of every rank [size K ...], the same on each.

        They take at most `PIECE_BYTES`. Raises ConnectionError when a rank is gone.
        """
        own, of_all = self._place(torch.Size((len(values), *values[0].shape)), values[0].dtype)
        torch.stack(list(values), out=own)
        self._wait_for_all()
        return of_all.clone()  # where they lie, others are written by and by

    def mean_(self, values: Tensor) -> None:
        """Replace contiguous `values`, however many, by their mean over all ranks: to the same bits on each."""
        for part in values.view(-1).split(PIECE_BYTES // values.element_size()):
            own, of_all = self._place(part.shape, part.dtype)
            torch.div(part, self.size, out=own)
            self._wait_for_all()
            first, second, *others = of_all
            torch.add(first, second, out=part)
            for other in others:
                part += other

    def close(self) -> None:
        """Leave."""
        for connection in self.peers.values():
            connection.close()

    def _meet(self, connection: socket.socket, memory: int | None) -> int:
        """Tell a peer who this is, and learn the same; return the descriptor of the memory, which rank 0 sends."""
        connection.settimeout(self.patience_s)
        own = [memory] if self.rank == 0 and memory is not None else []
        socket.send_fds(connection, [self.rank.to_bytes(4, "little")], own)
        name, sent, *_ = socket.recv_fds(connection, 4, 1)
        if not name:
            raise ConnectionError("a rank left before all were connected")
        connection.settimeout(None)
        self.peers[int.from_bytes(name, "little")] = connection
        found = sent[0] if sent else memory
        assert found is not None
        return found

    def _place(self, shape: torch.Size, dtype: torch.dtype) -> tuple[Tensor, Tensor]:
        """Return where this rank writes next, as a tensor [...], and where it then reads what all wrote [size ...]."""
        self._piece = (self._piece + 1) % PIECES
        key = (self._piece, shape, dtype)
        if key not in self._places:
            piece = self._memory[self._piece, :, : shape.numel() * dtype.itemsize]
            of_all = piece.view(dtype).view(self.size, *shape)
            self._places[key] = of_all[self.rank], of_all
        return self._places[key]

    def _wait_for_all(self) -> None:
        """Return when every rank has written its piece; the sockets also order what processors write and read."""
        for peer, connection in self.peers.items():
            try:
                connection.send(READY)
            except (BrokenPipeError, ConnectionResetError):
                raise _gone(peer) from None
        for peer, connection in self.peers.items():
            self._wait_for(peer, connection)

    def _wait_for(self, peer: int, connection: socket.socket) -> None:
        """Return when the peer has told that it is ready."""
        looks_until_s = time.perf_counter() + LOOKS_FOR_S
        while True:
            try:
                told = connection.recv(len(READY), socket.MSG_DONTWAIT)
            except BlockingIOError:
                os.sched_yield()
                if time.perf_counter() > looks_until_s:
                    self._sleep_on(peer, connection)
                continue
            except ConnectionResetError:
                told = b""
            if not told:
                raise _gone(peer)
            return

    def _sleep_on(self, peer: int, connection: socket.socket) -> None:
        """Wait for a peer that draws samples or writes a checkpoint."""
        poll = select.poll()
        poll.register(connection, select.POLLIN)
        if not poll.poll(self.patience_s * 1000):
            raise ConnectionError(f"rank {peer} has said nothing for {self.patience_s:g} s")


def _gone(peer: int) -> ConnectionError:
    return ConnectionError(f"rank {peer} is gone")


def available() -> bool:
    """Return whether this system shares memory, and names open folders, the way that is used here."""
    return hasattr(os, "memfd_create") and os.path.isdir(_OPEN)


@contextmanager
def _address(folder: str) -> Iterator[str]:
    """Yield the address of the socket in `folder` by way of the open folder: its own path may exceed 107 bytes."""
    opened = os.open(folder, os.O_PATH | os.O_DIRECTORY)
    try:
        yield f"{_OPEN}/{opened}/rank"
    finally:
        os.close(opened)


def _new_memory(size: int) -> int:
    """Return the descriptor of memory for the pieces of all ranks."""
    memory = os.memfd_create("genxfer-exchange")
    os.ftruncate(memory, size * PIECES * PIECE_BYTES)
    return memory
