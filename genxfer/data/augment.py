"""DiffAugment (Zhao et al. 2020, "Differentiable Augmentation for Data-Efficient GAN Training"), always or by chance.

Applied by chance, each operation is one of ADA's (Karras et al. 2020, "Training Generative Adversarial Networks with
Limited Data"); what moves that chance is training/adaptive.py. Stands in the engine between a batch on the device and
the nets: real and fake images go through the same policy, and gradients flow back through it (twice, where a penalty
asks). Knows nothing of nets or losses.
"""

from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from genxfer.noise import Noise

Operation = Callable[[Tensor, Tensor], Tensor]

_SHIFT_RATIO = 1 / 8  # largest shift and side of the hole, as shares of the image, from the paper
_HOLE_RATIO = 1 / 2
_DRAWS = 3  # random numbers per image and operation


def augment(images: Tensor, policy: Sequence[str], noise: Noise, probability: float = 1.0) -> Tensor:
    """Return `images` [N C H W] in [-1, 1], each changed in its own random way by every operation of `policy`.

    Each operation falls on each image with `probability`, independently. All randomness comes from `noise`, which may
    live on another device than the images; the same type and memory format come back. An empty policy, or a
    probability of 0, returns `images` itself. Raises ValueError on an unknown operation.
    """
    unknown = set(policy) - set(OPERATIONS)
    if unknown:
        raise ValueError(f"unknown augmentations {sorted(unknown)}; known: {', '.join(OPERATIONS)}")
    if not policy or probability <= 0:
        return images
    layout = torch.channels_last if images.is_contiguous(memory_format=torch.channels_last) else torch.contiguous_format
    result = images.contiguous()  # one copy to there and back costs less than each operation in channels_last
    for name in policy:
        changed = OPERATIONS[name](result, noise.uniform((len(images), _DRAWS), images))
        if probability < 1:
            chosen = noise.uniform((len(images), 1, 1, 1), images) < probability
            changed = torch.where(chosen, changed, result)
        result = changed
    return result.contiguous(memory_format=layout)


def _color(images: Tensor, draws: Tensor) -> Tensor:
    """Shift brightness by up to 0.5, scale saturation by 0 to 2, then contrast by 0.5 to 1.5.

    The three are one affine map of the pixel, of the mean over its channels and of the mean over its image, which
    takes a third of the passes over memory.
    """
    brightness, saturation, contrast = draws.T[..., None, None, None]
    brightness, saturation, contrast = brightness - 0.5, saturation * 2, contrast + 0.5
    image_mean = images.mean(dim=(1, 2, 3), keepdim=True)
    offset = ((1 - contrast) * image_mean + brightness).to(images.dtype)
    if images.shape[1] == 1:  # gray is the mean over its channels
        return torch.addcmul(offset, images, contrast.to(images.dtype))
    offset = offset + (contrast * (1 - saturation)).to(images.dtype) * images.mean(dim=1, keepdim=True)
    return torch.addcmul(offset, images, (contrast * saturation).to(images.dtype))


def _translation(images: Tensor, draws: Tensor) -> Tensor:
    """Shift by up to an eighth of the image each way; what comes in from outside is 0, the middle of the range."""
    n, channels, height_px, width_px = images.shape
    rows, has_row = _shifted(height_px, draws[:, 0])
    columns, has_column = _shifted(width_px, draws[:, 1])
    # A gather over flat pixels: no padding, and twice differentiable, which grid_sample is not.
    pixels = (rows[:, :, None] * width_px + columns[:, None, :]).flatten(1)
    moved = images.flatten(2).gather(2, pixels[:, None].expand(n, channels, -1)).view(images.shape)
    inside = has_row[:, None, :, None] & has_column[:, None, None, :]
    return moved * inside.to(images.dtype)


def _shifted(size_px: int, draws: Tensor) -> tuple[Tensor, Tensor]:
    """Return where each output pixel of each image comes from [N size_px], clamped, and whether that was inside."""
    largest_px = int(size_px * _SHIFT_RATIO + 0.5)
    shifts = (draws * (2 * largest_px + 1)).long() - largest_px
    origins = torch.arange(size_px, device=draws.device) + shifts[:, None]
    clamped = origins.clamp(0, size_px - 1)
    return clamped, origins == clamped


def _cutout(images: Tensor, draws: Tensor) -> Tensor:
    """Set a square of half the side, centred anywhere in the image, to 0."""
    _, _, height_px, width_px = images.shape
    hole = _hole(height_px, draws[:, 0])[:, None, :, None] & _hole(width_px, draws[:, 1])[:, None, None, :]
    return images * (~hole).to(images.dtype)


def _hole(size_px: int, draws: Tensor) -> Tensor:
    """Return which pixels of a side [N size_px] the hole of each image covers."""
    hole_px = int(size_px * _HOLE_RATIO + 0.5)
    centres = (draws * (size_px + 1 - hole_px % 2)).long()
    distances = torch.arange(size_px, device=draws.device) - (centres - hole_px // 2)[:, None]
    return (distances >= 0) & (distances < hole_px)


OPERATIONS: dict[str, Operation] = {"color": _color, "translation": _translation, "cutout": _cutout}
