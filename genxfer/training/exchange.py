"""Sums over the ranks of one machine within microseconds: sockets that are watched, not slept on.

gloo hands each message from thread to thread on both sides. Where waking a thread is slow, as on virtual machines, that
is a millisecond and more for a sum of sixty numbers (docs/training-speed.md), and a step with BatchNorm takes a dozen.
Here each rank sends its numbers to every other and looks for theirs until they are there. Made for a few ranks on
processors. Knows nothing of nets.
"""

import os
import select
import shutil
import socket
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, Protocol

import numpy as np
import torch
from torch import Tensor

PIECE_BYTES = 64 * 1024  # two of them fit into any socket's buffer, so that who sends never waits for who reads
LOOKS_FOR_S = 0.01  # before a rank that is far behind is slept on


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
        folder = tempfile.mkdtemp(prefix="genxfer-")  # of this user alone
        with socket.socket(socket.AF_UNIX) as listener:
            listener.bind(os.path.join(folder, "rank"))
            listener.listen(size)
            listener.settimeout(patience_s)
            board.set(f"exchange_{rank}", folder)
            for peer in range(rank):
                connection = socket.socket(socket.AF_UNIX)
                connection.connect(os.path.join(board.get(f"exchange_{peer}").decode(), "rank"))
                connection.sendall(rank.to_bytes(4, "little"))
                self.peers[peer] = connection
            for _ in range(rank + 1, size):
                connection, _address = listener.accept()
                self.peers[int.from_bytes(connection.recv(4), "little")] = connection
        shutil.rmtree(folder)

    def total(self, values: Tensor) -> Tensor:
        """Return the sum of `values`, which lie in memory, over all ranks: in their order, so to the same bits on each.

        Raises ConnectionError when a rank is gone.
        """
        own = values.detach().contiguous()
        parts = {self.rank: own} | {peer: torch.empty_like(own) for peer in self.peers}
        content = {rank: part.numpy().reshape(-1).view(np.uint8).data for rank, part in parts.items()}
        for start in range(0, own.nbytes, PIECE_BYTES):
            piece = slice(start, start + PIECE_BYTES)
            for peer, connection in self.peers.items():
                with _naming(peer):
                    connection.sendall(content[self.rank][piece])
            for peer, connection in self.peers.items():
                with _naming(peer):
                    self._receive(connection, content[peer][piece])
        total = parts[0].clone()
        for rank in range(1, self.size):
            total += parts[rank]
        return total

    def close(self) -> None:
        """Leave."""
        for connection in self.peers.values():
            connection.close()

    def _receive(self, connection: socket.socket, buffer: Any) -> None:
        """Fill `buffer` with what the peer sends."""
        looks_until_s = time.perf_counter() + LOOKS_FOR_S
        while buffer:
            try:
                count = connection.recv_into(buffer, 0, socket.MSG_DONTWAIT)
            except BlockingIOError:
                os.sched_yield()
                if time.perf_counter() > looks_until_s:
                    self._sleep_on(connection)
                continue
            if count == 0:
                raise ConnectionResetError
            buffer = buffer[count:]

    def _sleep_on(self, connection: socket.socket) -> None:
        """Wait for a peer that draws samples or writes a checkpoint."""
        poll = select.poll()
        poll.register(connection, select.POLLIN)
        if not poll.poll(self.patience_s * 1000):
            raise TimeoutError(f"has said nothing for {self.patience_s:g} s")


@contextmanager
def _naming(peer: int) -> Iterator[None]:
    """Say which rank it is that failed."""
    try:
        yield
    except (BrokenPipeError, ConnectionResetError):
        raise ConnectionError(f"rank {peer} is gone") from None
    except TimeoutError as error:
        raise ConnectionError(f"rank {peer} {error}") from None
