"""Where training is computed: the device, its processor threads, and how tensors get there.

The torch side of ComputeConfig. Knows nothing of models or training.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Literal

import torch

from genxfer.errors import ParameterError


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
