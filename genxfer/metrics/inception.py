"""The feature extractor `inception`: the network that published FIDs are measured with (Szegedy et al. 2015).

The net is torch-fidelity's, an optional dependency, so that its numbers are those of that library; the weights are a
file that the user names (`weights.py`). Knows nothing of metrics or of where images come from.
"""

import tempfile
from pathlib import Path
from typing import ClassVar

import torch
from torch import Tensor, nn

from genxfer.errors import DataError
from genxfer.metrics.features import Batch, Extractor, resize
from genxfer.metrics.tensors import read_tensors
from genxfer.metrics.weights import Weights


class Inception(Extractor):
    """Inception v3 as trained in 2015: 2048 features after pooling, at 299 px.

    Images up to 299 px are enlarged inside the net the way TensorFlow 1 did, as everybody's FID is; larger ones are
    first shrunk with antialiasing, which the original leaves out (Parmar et al. 2022 show what that costs).
    """

    name = "inception"
    batch: ClassVar[dict[str, int]] = {"cpu": 4, "cuda": 64}
    resolution_px: ClassVar[int] = 299

    def __init__(self, device: str = "cpu", *, weights: Weights) -> None:
        super().__init__(device)
        self.digest = weights.digest
        self.net = _build(weights.file).eval().requires_grad_(False).to(self.device)
        self.net.to(memory_format=torch.channels_last)

    def _prepare(self, images: Tensor) -> Tensor:
        if max(images.shape[2:]) > self.resolution_px:
            images = resize(images, self.resolution_px)
        return images.mul(255).round_().byte().expand(-1, 3, -1, -1)

    def _features(self, prepared: Tensor) -> Tensor:
        assert self.net is not None
        features: Tensor = self.net(prepared)[0]
        return features

    @torch.no_grad()
    def _pass(self, batch: Batch, *, reduced: bool) -> Tensor:
        """Take images of each size by themselves: it is the net that enlarges them."""
        return torch.cat([super(Inception, self)._pass([images], reduced=reduced) for images in batch])


def _build(weights: Path) -> nn.Module:
    """Return torch-fidelity's net with the tensors of `weights`.

    The library unpickles the file it is given, so it is given one that holds the tensors alone, written here.
    """
    from torch_fidelity.feature_extractor_inceptionv3 import FeatureExtractorInceptionV3

    tensors = read_tensors(weights)
    with tempfile.TemporaryDirectory() as folder:
        copy = Path(folder) / "weights.pth"
        torch.save(tensors, copy)
        try:
            net: nn.Module = FeatureExtractorInceptionV3(
                "inception-v3-compat", ["2048"], feature_extractor_weights_path=str(copy)
            )
        except RuntimeError as error:
            first = " ".join(str(error).split())[:300]
            raise DataError(f"The weights in {weights} are not those of the FID network: {first}") from error
    return net
