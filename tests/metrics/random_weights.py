"""Weights of the right shapes that mean nothing, for extractors whose real ones no package carries."""

import math
from pathlib import Path

import timm
import torch
from safetensors.torch import save_file
from torch import Tensor, nn
from torch_fidelity.feature_extractor_inceptionv3 import FeatureExtractorInceptionV3

from genxfer.artifacts.fingerprint import digest_file


def random_weights(name: str, folder: Path, suffix: str = "pth") -> str:
    """Write random weights of extractor `name` and return where they are, with their digest as one would give it."""
    path = folder / f"{name}.{suffix}"
    if suffix == "pth":
        torch.save(tensors(name), path)
    else:
        save_file(tensors(name), path)
    return f"{path}#sha256={digest_file(path)}"


def tensors(name: str) -> dict[str, Tensor]:
    """The state of a net whose features neither vanish nor explode."""
    with torch.random.fork_rng():
        torch.manual_seed(0)
        net = inception() if name == "inception" else timm.create_model("vit_small_patch14_dinov2", num_classes=0)
    generator = torch.Generator().manual_seed(0)
    state = net.state_dict()
    for key, value in state.items():
        if value.ndim > 1 and key.endswith("weight"):
            value.normal_(0, math.sqrt(2 / value[0].numel()), generator=generator)
        elif value.is_floating_point() and not key.endswith("running_var"):
            value.add_(torch.randn(value.shape, generator=generator) * 0.02)
    return state


def inception() -> nn.Module:
    """torch-fidelity's net without its weights, which its constructor would load."""

    class Unloaded(FeatureExtractorInceptionV3):
        def load_state_dict(self, *arguments: object, **keys: object) -> None:
            """Keep what torch has drawn."""

    empty = Path(__file__).with_name("no_weights.pth")
    torch.save({}, empty)
    try:
        return Unloaded("inception-v3-compat", ["2048"], feature_extractor_weights_path=str(empty))
    finally:
        empty.unlink()
