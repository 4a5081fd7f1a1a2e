"""bf16 or fp32: found out on this machine, not assumed, and without importing torch where no GPU is in sight.

The precision is resolved before a fingerprint is taken, so a cached run asks here too and must not wait for torch.
Knows nothing of models or training.
"""

import os
from pathlib import Path
from typing import Literal

Precision = Literal["fp32", "bf16"]

# On a processor without one of these, bf16 is emulated and slower than fp32.
BF16_FLAGS = frozenset({"avx512_bf16", "amx_bf16"})


def resolve_precision(requested: Literal["auto", "fp32", "bf16"]) -> Precision:
    """Return the precision to train with: as requested, or for `auto` bf16 where the hardware has it, else fp32."""
    if requested != "auto":
        return requested
    if gpu_in_sight():
        import torch

        if torch.cuda.is_available():
            return "bf16" if torch.cuda.is_bf16_supported(including_emulation=False) else "fp32"
    return "bf16" if processor_has_bf16() else "fp32"


def gpu_in_sight(devices: Path = Path("/dev")) -> bool:
    """Return whether an NVIDIA device is there and not hidden; whether torch can use it is for torch to say.

    Any number counts: a container may be given no other than the host's third.
    """
    there = any(devices.glob("nvidia[0-9]*"))
    return there and os.environ.get("CUDA_VISIBLE_DEVICES", "all") not in ("", "-1")


def processor_has_bf16(cpuinfo: Path = Path("/proc/cpuinfo")) -> bool:
    """Return whether the processor multiplies bf16 matrices itself; False where `cpuinfo` cannot be read."""
    try:
        words = cpuinfo.read_text().split()
    except OSError:
        return False
    return not BF16_FLAGS.isdisjoint(words)
