"""DiffAugment (Zhao et al. 2020, "Differentiable Augmentation for Data-Efficient GAN Training"), always or by chance.

Applied by chance, each operation is one of ADA's (Karras et al. 2020, "Training Generative Adversarial Networks with
Limited Data"); what moves that chance is training/adaptive.py. Stands in the engine between a batch on the device and
the nets: real and fake images go through the same policy, and gradients flow back through it (twice, where a penalty
asks). Knows nothing of nets or losses.
"""

from collections.abc import Callable, Sequence
from functools import lru_cache
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.autograd import Function

from genxfer.noise import Noise

Operation = Callable[[Tensor, Tensor], Tensor]

_SHIFT_RATIO = 1 / 8  # largest shift and side of the hole, as shares of the image, from the paper
_HOLE_RATIO = 1 / 2
_DRAWS = 3  # random numbers per image and operation


def augment(images: Tensor, policy: Sequence[str], noise: Noise, probability: float = 1.0, sets: int = 1) -> Tensor:
    """Return `images` [N C H W] in [-1, 1], each changed in its own random way by every operation of `policy`.

    Each operation falls on each image with `probability`, independently. All randomness comes from `noise`, which may
    live on another device than the images; where these are several `sets`, such as reals and then fakes, each has its
    turn to draw. The same type and memory format come back. An empty policy, or a probability of 0, returns `images`
    itself. Raises ValueError on an unknown operation.
    """
    unknown = set(policy) - set(OPERATIONS)
    if unknown:
        raise ValueError(f"unknown augmentations {sorted(unknown)}; known: {', '.join(OPERATIONS)}")
    if not policy or probability <= 0:
        return images
    layout = torch.channels_last if images.is_contiguous(memory_format=torch.channels_last) else torch.contiguous_format
    # One copy to there and back costs less than each operation in channels_last, save of those that move whole rows.
    result = images if set(policy) <= {"translation"} else images.contiguous()
    for name in policy:
        changed = OPERATIONS[name](result, _uniform(noise, (_DRAWS,), images, sets))
        if probability < 1:
            chosen = _uniform(noise, (1, 1, 1), images, sets) < probability
            changed = torch.where(chosen, changed, result)
        result = changed
    return result.contiguous(memory_format=layout)


def _uniform(noise: Noise, size: tuple[int, ...], images: Tensor, sets: int) -> Tensor:
    """Return [N *size], uniform in [0, 1), for each of the images."""
    draws = [noise.uniform((len(images) // sets, *size), images) for _ in range(sets)]
    return draws[0] if sets == 1 else torch.cat(draws)


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
    border_px = tuple(int(size_px * _SHIFT_RATIO + 0.5) for size_px in images.shape[2:])
    down_px, right_px = ((draws[:, i] * (2 * most_px + 1)).long() for i, most_px in enumerate(border_px))
    shifted: Tensor = _Shift.apply(images, down_px * (images.shape[3] + 2 * border_px[1]) + right_px, border_px)
    return shifted


class _Shift(Function):
    """Images are read from within a border of zeros, each from its own corner; differentiable as often as one likes.

    `corners` [N] are the places of these corners among the pixels of an image with its border, row by row.
    """

    @staticmethod
    def forward(ctx: Any, images: Tensor, corners: Tensor, border_px: tuple[int, int]) -> Tensor:
        ctx.save_for_backward(corners)
        ctx.border_px = border_px
        if images.is_contiguous(memory_format=torch.channels_last):
            return _shift(images.permute(0, 2, 3, 1), corners, border_px).permute(0, 3, 1, 2)
        planes = images.contiguous().view(-1, *images.shape[2:], 1)
        return _shift(planes, corners.repeat_interleave(images.shape[1]), border_px).view(images.shape)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor | None, ...]:
        (corners,), (border_y_px, border_x_px) = ctx.saved_tensors, ctx.border_px
        last = 2 * border_y_px * (gradients[0].shape[3] + 2 * border_x_px) + 2 * border_x_px
        return _Shift.apply(gradients[0], last - corners, ctx.border_px), None, None


def _shift(images: Tensor, corners: Tensor, border_px: tuple[int, int]) -> Tensor:
    """Return [N H W C], each image read from its corner on.

    A row of the result is one stretch of memory, read where it starts: ten times as fast as pixel by pixel.
    """
    n, height_px, width_px, channels = images.shape
    border_y_px, border_x_px = border_px
    padded = F.pad(images, (0, 0, border_x_px, border_x_px, border_y_px, border_y_px))
    starts = _row_starts(n, height_px, border_y_px, width_px + 2 * border_x_px, images.device) + corners[:, None]
    stretches = padded.as_strided((padded.numel() // channels - width_px + 1, width_px * channels), (channels, 1))
    return stretches.index_select(0, starts.flatten()).view(images.shape)


@lru_cache(maxsize=16)
def _row_starts(n: int, height_px: int, border_px: int, row_px: int, device: torch.device) -> Tensor:
    """Return [N H], where the first rows of n images start that have a border above and below."""
    first = torch.arange(n, device=device) * (height_px + 2 * border_px)
    return (first[:, None] + torch.arange(height_px, device=device)) * row_px


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
