"""The processes that train together: who they are, and all that they say to each other.

Every rank holds the same nets and takes its share of each batch; gradients are averaged (DistributedDataParallel),
BatchNorm sees the whole batch, and whatever depends on a clock or a signal is agreed upon, so that all ranks do the
same in the same step. `World` is one process alone; `Ranks` are several, over NCCL on GPUs and gloo on processors. The
only place that speaks to torch.distributed. Knows nothing of families or files.
"""

import os
import socket
from contextlib import AbstractContextManager, nullcontext
from datetime import timedelta
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel

from genxfer.training.device import training_device

PATIENCE = timedelta(minutes=10)  # for a rank that draws samples or writes a checkpoint while the others wait


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
        """Return which of the wishes any rank has; several ranks answer with those of the step before."""
        return wishes

    def gather(self, values: Tensor) -> Tensor:
        """Return `values` [K] of every rank [size K], on every rank."""
        return values[None]

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
        """Replace every BatchNorm by one over all ranks: torch's own on GPUs, ours on processors, for want of one."""
        for name, net in nets.items():
            if self.device.type == "cuda":
                nets[name] = nn.SyncBatchNorm.convert_sync_batchnorm(net)
            else:
                nets[name] = _with_shared_norms(net)

    def share_gradients(self, module: nn.Module) -> nn.Module:
        """Wrap `module`, whose parameters that move now are the ones to share; buffers are equal already."""
        return DistributedDataParallel(module, forward_sync_buffers=False, gradient_as_bucket_view=True)

    def hold_back(self, module: nn.Module) -> AbstractContextManager[None]:
        """Ask DDP not to synchronise."""
        assert isinstance(module, DistributedDataParallel)
        context: AbstractContextManager[None] = module.no_sync()
        return context

    def agree(self, *wishes: bool) -> tuple[bool, ...]:
        """Ask all ranks, and return their answers to the question of the step before: nobody waits within a step."""
        answers = tuple(False for _ in wishes)
        if self._asked is not None:
            asked, work = self._asked
            work.wait()
            answers = tuple(bool(answer) for answer in asked.tolist())
        asked = torch.tensor(wishes, dtype=torch.int32)
        self._asked = (asked, dist.all_reduce(asked, dist.ReduceOp.MAX, group=self._side, async_op=True))
        return answers

    def gather(self, values: Tensor) -> Tensor:
        """Gather over gloo, whatever the device."""
        own = values.cpu().contiguous()
        parts = [torch.empty_like(own) for _ in range(self.size)]
        dist.all_gather(parts, own, group=self._side)
        return torch.stack(parts)

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


class SharedBatchNorm(nn.Module):
    """BatchNorm (Ioffe & Szegedy 2015) over the images of all ranks; with the parameters and buffers of `norm`.

    In eval mode it is `norm` itself. Every rank must have as many images as the others. Twice differentiable.
    """

    running_mean: Tensor
    running_var: Tensor
    num_batches_tracked: Tensor

    def __init__(self, norm: nn.BatchNorm2d) -> None:
        super().__init__()
        self.eps, self.momentum = norm.eps, norm.momentum
        self.weight, self.bias = norm.weight, norm.bias
        for name, buffer in norm.named_buffers():
            self.register_buffer(name, buffer)
        self.train(norm.training)

    def forward(self, x: Tensor) -> Tensor:
        """Return x [N C H W] normalised by the mean and variance of each channel over all ranks."""
        if not self.training:
            return nn.functional.batch_norm(
                x, self.running_mean, self.running_var, self.weight, self.bias, False, 0.0, self.eps
            )
        variance, mean = torch.var_mean(x.float(), dim=(0, 2, 3), unbiased=False)
        moments = torch.stack([mean, variance + mean.square()]).double()
        mean, square = _Sum.apply(moments) / dist.get_world_size()
        variance = (square - mean.square()).clamp_min(0)
        self._track(mean.detach(), variance.detach(), x.numel() // x.shape[1] * dist.get_world_size())
        scale = (self.weight * (variance + self.eps).rsqrt()).float()
        shift = (self.bias - mean * scale).float()
        return torch.addcmul(shift[:, None, None], x.float(), scale[:, None, None]).to(x.dtype)

    @torch.no_grad()
    def _track(self, mean: Tensor, variance: Tensor, count: int) -> None:
        """Move the running statistics, the variance unbiased as torch's."""
        self.num_batches_tracked += 1
        momentum = self.momentum if self.momentum is not None else 1 / self.num_batches_tracked.item()
        self.running_mean.lerp_(mean.float(), momentum)
        self.running_var.lerp_((variance * (count / max(count - 1, 1))).float(), momentum)


class _Sum(torch.autograd.Function):
    """The sum of a tensor over all ranks; its gradient is a sum over all ranks too, and so on."""

    @staticmethod
    def forward(values: Tensor) -> Tensor:
        """Return the sum."""
        total = values.clone()
        dist.all_reduce(total)
        return total

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Tensor], output: Tensor) -> None:
        """Keep nothing."""

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> Tensor:
        """Return the gradients' sum."""
        total: Tensor = _Sum.apply(gradient)
        return total


def _with_shared_norms(net: nn.Module) -> nn.Module:
    """Return `net` with every BatchNorm2d replaced, in place where it is not one itself."""
    if isinstance(net, nn.BatchNorm2d):
        return SharedBatchNorm(net)
    for name, child in net.named_children():
        setattr(net, name, _with_shared_norms(child))
    return net
