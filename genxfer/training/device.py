"""Where training is computed: the device, the processor's threads and memory.

The torch side of ComputeConfig. Knows nothing of models or training.
"""

import ctypes
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Literal

import torch

from genxfer.errors import ParameterError

M_TRIM_THRESHOLD, M_MMAP_THRESHOLD = -1, -3  # malloc.h of glibc
KEPT_BYTES = 512 << 20
LARGEST_KEPT_BYTES = 32 << 20  # glibc takes no more


def training_device() -> torch.device:
    """Return the device to train on: the first visible GPU, otherwise the processor."""
    return torch.device("cuda" if torch.cuda.is_available() else "cpu")


def process_count(devices: Literal["auto"] | int) -> int:
    """Return how many processes train; raises ParameterError when there are GPUs, but not as many as asked for."""
    gpus = torch.cuda.device_count()
    if devices == "auto":
        return max(gpus, 1)
    if 0 < gpus < devices:
        raise ParameterError(
            f"compute.devices is {devices}, but this machine has {gpus} GPUs. Set compute.devices to at most {gpus}."
        )
    return devices


@contextmanager
def processor_threads(threads: Literal["auto"] | int) -> Iterator[None]:
    """Compute with so many processor threads meanwhile; another number gives other last bits."""
    before = torch.get_num_threads()
    torch.set_num_threads(before if threads == "auto" else threads)
    try:
        yield
    finally:
        torch.set_num_threads(before)


def keep_freed_memory() -> None:
    """Let this process keep up to half a gigabyte that it has freed, where its C library is glibc.

    Each step frees what it has allocated. Given back to the kernel, all of it comes page by page and zeroed in the next
    step, which is 3 to 10 % of a step of a `flow` (docs/training-speed.md).
    """
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None)
    if mallopt is not None:
        mallopt(M_MMAP_THRESHOLD, LARGEST_KEPT_BYTES)
        mallopt(M_TRIM_THRESHOLD, KEPT_BYTES)
