"""The feature extractor `dinov2`: a vision transformer trained without labels (Oquab et al. 2023).

Its distances agree with people's judgement better than those of Inception (Stein et al. 2023). The architecture is
timm's; the weights are a file that the user names (`weights.py`). Knows nothing of metrics or of where images are from.
"""

from typing import ClassVar

import torch
from torch import Tensor, nn

from genxfer.metrics.features import Extractor, resize
from genxfer.metrics.tensors import load_strictly, read_tensors
from genxfer.metrics.weights import Weights

ARCHITECTURE = "vit_small_patch14_dinov2"
MEAN, STANDARD_DEVIATION = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)  # of ImageNet, as it was trained


class DinoV2(Extractor):
    """DINOv2 with a small vision transformer: the 384 features of the class token, at 224 px."""

    name = "dinov2"
    batch: ClassVar[dict[str, int]] = {"cpu": 4, "cuda": 128}
    resolution_px: ClassVar[int] = 224

    def __init__(self, device: str = "cpu", *, weights: Weights) -> None:
        super().__init__(device)
        import timm

        self.digest = weights.digest
        # The stored position embeddings are those of 518 px: dynamic, they are interpolated to the patches there are.
        net: nn.Module = timm.create_model(ARCHITECTURE, pretrained=False, num_classes=0, dynamic_img_size=True)
        load_strictly(net, read_tensors(weights.file), weights.file, f"timm's {ARCHITECTURE}")
        self.net = net.eval().requires_grad_(False).to(self.device)
        self._mean, self._deviation = (
            torch.tensor(values, device=self.device)[:, None, None] for values in (MEAN, STANDARD_DEVIATION)
        )

    def _prepare(self, images: Tensor) -> Tensor:
        return (resize(images, self.resolution_px) - self._mean) / self._deviation

    def _features(self, prepared: Tensor) -> Tensor:
        assert self.net is not None
        features: Tensor = self.net(prepared)
        return features
