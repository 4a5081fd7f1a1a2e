"""The processes that train together: who they are, and all that they say to each other.

Every rank holds the same nets and takes its share of each batch; gradients are averaged (DistributedDataParallel),
BatchNorm sees the whole batch, and whatever depends on a clock or a signal is agreed upon, so that all ranks do the
same in the same step. `World` is one process alone; `Ranks` are several, over NCCL on GPUs and gloo on processors,
where those of one machine speak by `exchange.py`. The only place that speaks to torch.distributed. Knows nothing of
families or files.
"""

import importlib
import os
import socket
from collections.abc import Sequence
from contextlib import AbstractContextManager, nullcontext
from datetime import timedelta
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel

from genxfer.training import exchange, shared_norm
from genxfer.training.device import training_device

PATIENCE = timedelta(minutes=10)  # for a rank that draws samples or writes a checkpoint while the others wait
MOST_EXCHANGING = 8  # ranks; each sends to all others, where gloo's rings send to one


class World:
    """One process that trains alone: every answer is its own."""

    rank = 0
    size = 1

    def __init__(self, device: torch.device | None = None) -> None:
        self.device = device or training_device()

    @property
    def leader(self) -> bool:
        """Whether this rank speaks for all: it writes checkpoints, curves and snapshots, and draws samples."""
        return self.rank == 0

    def rows(self, batch: int) -> slice:
        """Return which images of a batch of `batch` are this rank's share."""
        return slice(0, batch)

    def share_norms(self, nets: nn.ModuleDict) -> None:
        """Let BatchNorm take its statistics over the whole batch, in place."""

    def share_gradients(self, module: nn.Module) -> nn.Module:
        """Return `module` such that a backward pass leaves the gradients' mean over all ranks."""
        return module

    def hold_back(self, module: nn.Module) -> AbstractContextManager[None]:
        """Let gradients of `share_gradients` add up on this rank meanwhile, and travel with the next backward pass."""
        return nullcontext()

    def agree(self, *wishes: bool) -> tuple[bool, ...]:
        """Return which of the wishes any rank has, or had a step before."""
        return wishes

    def gather(self, values: Sequence[Tensor]) -> Tensor:
        """Return equal-shaped `values` [...] of every rank [size K ...], on every rank."""
        return torch.stack(list(values))[None]

    def broadcast(self, content: bytes | None) -> bytes | None:
        """Return the leader's `content`, or None where the leader has none."""
        return content

    def close(self) -> None:
        """Leave the group."""


class Ranks(World):
    """One of several processes, as torchrun's environment describes them."""

    def __init__(self, device: torch.device, leads: bool) -> None:
        """Join the others; returns when all are there. The first rank of the host that `leads` is the leader."""
        super().__init__(device)
        self.rank, self.size = int(os.environ["RANK"]), int(os.environ["WORLD_SIZE"])
        store = _meeting_point(self.rank, self.size)
        if leads and os.environ["LOCAL_RANK"] == "0":
            store.set("leader", str(self.rank))
        self._leader = int(store.get("leader"))
        backend = "nccl" if device.type == "cuda" else "gloo"
        dist.init_process_group(backend, store=store, rank=self.rank, world_size=self.size, timeout=PATIENCE)
        # Wishes and files travel over gloo on any device: no GPU waits for them, and they never mix with gradients.
        self._side: Any = dist.new_group(backend="gloo", timeout=PATIENCE)
        self._asked: tuple[Tensor, Any] | None = None
        self._exchange: exchange.Exchange | None = None
        together = os.environ.get("LOCAL_WORLD_SIZE") == os.environ["WORLD_SIZE"]
        if together and device.type == "cpu" and self.size <= MOST_EXCHANGING and exchange.available():
            self._exchange = exchange.Exchange(self.rank, self.size, store, PATIENCE.total_seconds())

    def __deepcopy__(self, memo: object) -> "Ranks":
        """Return itself: a copied net speaks to the same ranks."""
        return self

    @property
    def leader(self) -> bool:
        """Whether this is the rank that all have found to lead: torchrun may number another one 0."""
        return self.rank == self._leader

    def rows(self, batch: int) -> slice:
        """Return this rank's share; raises ValueError when `batch` does not divide among the ranks."""
        if batch % self.size:
            raise ValueError(f"a batch of {batch} does not divide among {self.size} ranks")
        share = batch // self.size
        return slice(self.rank * share, (self.rank + 1) * share)

    def share_norms(self, nets: nn.ModuleDict) -> None:
        """Replace every BatchNorm by one over all ranks; asked for by a training, before its first step."""
        importlib.import_module("torch._dynamo")  # takes seconds, in the midst of the first step where DDP imports it
        gather = self.gather if self.device.type == "cpu" else self.gather_on_device
        for name, net in nets.items():
            nets[name] = shared_norm.convert(net, gather, self.size)

    def share_gradients(self, module: nn.Module) -> nn.Module:
        """Wrap `module`, whose parameters that move now are the ones to share; buffers are equal already."""
        shared = DistributedDataParallel(module, forward_sync_buffers=False, gradient_as_bucket_view=True)
        if self._exchange is not None:
            shared.register_comm_hook(None, self._mean)
        return shared

    def _mean(self, state: None, bucket: dist.GradBucket) -> torch.futures.Future[Tensor]:
        """Leave the gradients' mean over all ranks in place, which saves DDP copies: its own way over the exchange."""
        assert self._exchange is not None
        gradients = bucket.buffer()
        self._exchange.mean_(gradients)
        done: torch.futures.Future[Tensor] = torch.futures.Future()
        done.set_result(gradients)
        return done

    def hold_back(self, module: nn.Module) -> AbstractContextManager[None]:
        """Ask DDP not to synchronise."""
        assert isinstance(module, DistributedDataParallel)
        context: AbstractContextManager[None] = module.no_sync()
        return context

    def agree(self, *wishes: bool) -> tuple[bool, ...]:
        """Ask all ranks; where that takes long, return their answers to the question of the step before."""
        if self._exchange is not None:
            return tuple(self._exchange.gather([torch.tensor(wishes)]).any(dim=0)[0].tolist())
        answers = tuple(False for _ in wishes)
        if self._asked is not None:
            asked, work = self._asked
            work.wait()
            answers = tuple(bool(answer) for answer in asked.tolist())
        asked = torch.tensor(wishes, dtype=torch.int32)
        self._asked = (asked, dist.all_reduce(asked, dist.ReduceOp.MAX, group=self._side, async_op=True))
        return answers

    def gather(self, values: Sequence[Tensor]) -> Tensor:
        """Gather by the exchange, or over gloo, whatever the device."""
        if self._exchange is not None:
            return self._exchange.gather(values)
        own = torch.stack(list(values)).cpu()
        parts = [torch.empty_like(own) for _ in range(self.size)]
        dist.all_gather(parts, own, group=self._side)
        return torch.stack(parts)

    def gather_on_device(self, values: Sequence[Tensor]) -> Tensor:
        """Gather where the values are, in turn with gradients: the processor does not wait for a GPU."""
        own = torch.stack(list(values))
        of_all = own.new_empty(self.size * own.numel())
        dist.all_gather_into_tensor(of_all, own.view(-1))
        return of_all.view(self.size, *own.shape)

    def broadcast(self, content: bytes | None) -> bytes | None:
        """Send the length, then the bytes."""
        length = torch.tensor([-1 if content is None else len(content)])
        dist.broadcast(length, src=self._leader, group=self._side)
        if length.item() < 0:
            return None
        data = torch.empty(int(length.item()), dtype=torch.uint8)
        if content is not None:
            data.copy_(torch.frombuffer(bytearray(content), dtype=torch.uint8))
        dist.broadcast(data, src=self._leader, group=self._side)
        return data.numpy().tobytes()

    def close(self) -> None:
        """Wait for the last question, then leave."""
        if self._asked is not None:
            self._asked[1].wait()
        if self._exchange is not None:
            self._exchange.close()
        dist.destroy_process_group()


def _meeting_point(rank: int, size: int) -> dist.Store:
    """Return the store through which the ranks find each other, served by rank 0 on the address it is known by.

    torch itself would listen on all of the machine's addresses.
    """
    address, port = os.environ["MASTER_ADDR"], int(os.environ["MASTER_PORT"])
    listening_fd = None
    if rank == 0:
        family = socket.getaddrinfo(address, port, type=socket.SOCK_STREAM)[0][0]
        listening_fd = socket.create_server((address, port), family=family, backlog=size).detach()
    return dist.TCPStore(address, port, size, is_master=rank == 0, timeout=PATIENCE, master_listen_fd=listening_fd)


def join(leads: bool = True) -> World:
    """Return the world of this process: of torchrun's ranks where its environment says so, else alone.

    `leads` is the same on all ranks of a host, and true on one host.
    """
    if int(os.environ.get("WORLD_SIZE", "1")) == 1:
        return World()
    device = training_device()
    if device.type == "cuda":
        device = torch.device("cuda", int(os.environ["LOCAL_RANK"]))
        torch.cuda.set_device(device)
    return Ranks(device, leads)
