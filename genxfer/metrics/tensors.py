"""Tensors out of a file of weights, as data only: nothing in the file is ever run.

Knows nothing of which net they are for.
"""

from pathlib import Path

import torch
from safetensors.torch import load_file
from torch import Tensor, nn

from genxfer.errors import DataError


def read_tensors(path: Path) -> dict[str, Tensor]:
    """Return the tensors of a .safetensors file, or of a .pth file that holds nothing else; raises DataError."""
    try:
        if path.suffix == ".safetensors":
            return load_file(path)
        tensors = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # of damaged bytes torch raises what it likes, such as IndexError
        raise DataError(f"{path} holds no weights that can be read as data alone: {error}") from error
    if not isinstance(tensors, dict) or not all(isinstance(value, Tensor) for value in tensors.values()):
        raise DataError(f"{path} holds more than named tensors. Save the net's state_dict() alone.")
    return tensors


def load_strictly(net: nn.Module, tensors: dict[str, Tensor], path: Path, name: str) -> None:
    """Give `net` the `tensors` of `path`; raises DataError unless they are exactly those of the architecture `name`."""
    try:
        net.load_state_dict(tensors, strict=True)
    except RuntimeError as error:
        first = " ".join(str(error).split())[:300]
        raise DataError(f"The weights in {path} are not those of {name}: {first}") from error
