"""Layers that halve and double the side of images, with gradients computed the way that is fast in bf16 on a processor.

Halving with a kernel, doubling with it, and the sum of products that is the kernel's gradient are one trilinear form
seen from its three sides, so each one's gradients are the other two, as often as one likes. Saying so, rather than
letting torch derive it, allows for each to be computed in another way than oneDNN's where that is slow: between many
channels a kernel's gradient by a matrix product, to the few of an image a doubling by a convolution
(docs/training-speed.md). Everywhere else these are torch's layers. Knows no family.
"""

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.autograd import Function

KERNEL, STRIDE, PADDING = 4, 2, 1
# Of the larger images: up to the first, doubling is slow in oneDNN, from the second on a kernel's gradient.
FEW_CHANNELS = 4
UNFOLDED_CHANNELS = 64


class Halve(nn.Conv2d):
    """Convolution [N B 2H 2W] -> [N A H W] with a kernel [A B 4 4]."""

    def __init__(self, before: int, after: int, *, bias: bool = True) -> None:
        super().__init__(before, after, KERNEL, STRIDE, PADDING, bias=bias)

    def forward(self, images: Tensor) -> Tensor:
        """Return images of half the side."""
        if not (_in_bf16(images) and self.in_channels >= UNFOLDED_CHANNELS):
            return super().forward(images)
        halved: Tensor = _Halve.apply(*_as_bf16(images, self.weight, self.bias))
        return halved


class Double(nn.ConvTranspose2d):
    """Transposed convolution [N A H W] -> [N B 2H 2W] with a kernel [A B 4 4]."""

    def __init__(self, before: int, after: int, *, bias: bool = True) -> None:
        super().__init__(before, after, KERNEL, STRIDE, PADDING, bias=bias)

    def forward(self, images: Tensor, output_size: list[int] | None = None) -> Tensor:
        """Return images of twice the side; there is but one such size."""
        channels = self.out_channels  # of `weight` every mention is computed anew where it is parametrized
        if not (_in_bf16(images) and (channels <= FEW_CHANNELS or channels >= UNFOLDED_CHANNELS)):
            return super().forward(images, output_size)
        doubled: Tensor = _Double.apply(*_as_bf16(images, self.weight, self.bias))
        return doubled


class Tanh(nn.Tanh):
    """Tanh by way of float32: on a processor that, and back, takes less than half of the time of tanh in bf16."""

    def forward(self, x: Tensor) -> Tensor:
        """Return tanh(x) [...] in the type of x."""
        return super().forward(x.float()).to(x.dtype) if _in_bf16(x) else super().forward(x)


class Unflatten(nn.Module):
    """Rows [N C*S*S] -> images [N C S S], in bf16 on a processor already in the memory format of the layers after."""

    def __init__(self, channels: int, side_px: int) -> None:
        super().__init__()
        self.shape = (channels, side_px, side_px)

    def forward(self, rows: Tensor) -> Tensor:
        """Return the rows as images."""
        images = rows.unflatten(1, self.shape)
        return images.contiguous(memory_format=torch.channels_last) if _in_bf16(rows) else images


class Flatten(nn.Module):
    """Flatten [N C H W] -> [N C*H*W], whose gradient comes back in the memory format of the images.

    Torch's own comes back contiguous. Where the images are channels_last, the layer before then reads one tensor across
    the other, which takes ten times as long.
    """

    def forward(self, images: Tensor) -> Tensor:
        """Return the images as rows."""
        if images.requires_grad and images.is_contiguous(memory_format=torch.channels_last):
            images.register_hook(lambda gradient: gradient.contiguous(memory_format=torch.channels_last))
        return images.flatten(1)


class _Halve(Function):
    @staticmethod
    def forward(ctx: Any, large: Tensor, kernel: Tensor, bias: Tensor | None) -> Tensor:
        ctx.save_for_backward(large, kernel)
        return F.conv2d(large, kernel, bias, STRIDE, PADDING)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor | None, ...]:
        (gradient,), (large, kernel) = gradients, ctx.saved_tensors
        of_large, of_kernel, of_bias = ctx.needs_input_grad
        return (
            _Double.apply(gradient, kernel, None) if of_large else None,
            _KernelGradient.apply(large, gradient) if of_kernel else None,
            gradient.sum(dim=(0, 2, 3)) if of_bias else None,
        )


class _Double(Function):
    @staticmethod
    def forward(ctx: Any, small: Tensor, kernel: Tensor, bias: Tensor | None) -> Tensor:
        ctx.save_for_backward(small, kernel)
        if kernel.shape[1] <= FEW_CHANNELS:
            return _by_convolution(small, kernel, bias)
        return F.conv_transpose2d(small, kernel, bias, STRIDE, PADDING)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor | None, ...]:
        (gradient,), (small, kernel) = gradients, ctx.saved_tensors
        of_small, of_kernel, of_bias = ctx.needs_input_grad
        return (
            _Halve.apply(gradient, kernel, None) if of_small else None,
            _KernelGradient.apply(gradient, small) if of_kernel else None,
            gradient.sum(dim=(0, 2, 3)) if of_bias else None,
        )


class _KernelGradient(Function):
    @staticmethod
    def forward(ctx: Any, large: Tensor, small: Tensor) -> Tensor:
        ctx.save_for_backward(large, small)
        if large.shape[1] >= UNFOLDED_CHANNELS:
            return _by_matrix_product(large, small)
        kernel = large.new_empty((small.shape[1], large.shape[1], KERNEL, KERNEL))  # only its shape is looked at
        sizes = [STRIDE] * 2, [PADDING] * 2, [1] * 2, False, [0] * 2, 1
        wanted = [False, True, False]
        gradient: Tensor = torch.ops.aten.convolution_backward(small, large, kernel, None, *sizes, wanted)[1]
        return gradient

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor | None, ...]:
        (gradient,), (large, small) = gradients, ctx.saved_tensors
        of_large, of_small = ctx.needs_input_grad
        return (
            _Double.apply(small, gradient, None) if of_large else None,
            _Halve.apply(large, gradient, None) if of_small else None,
        )


def _by_matrix_product(large: Tensor, small: Tensor) -> Tensor:
    """Return the kernel's gradient [A B 4 4] of images [N B 2H 2W] and [N A H W]."""
    n, channels, height_px, width_px = large.shape
    padded = F.pad(large.permute(0, 2, 3, 1), (0, 0, PADDING, PADDING, PADDING, PADDING))
    of_image, of_row, of_column, _ = padded.stride()
    patches = padded.as_strided(
        (n, height_px // STRIDE, width_px // STRIDE, KERNEL, KERNEL, channels),
        (of_image, STRIDE * of_row, STRIDE * of_column, of_row, of_column, 1),
    ).reshape(-1, KERNEL * KERNEL * channels)
    rows = small.permute(0, 2, 3, 1).reshape(-1, small.shape[1])
    return (rows.T @ patches).view(-1, KERNEL, KERNEL, channels).permute(0, 3, 1, 2)


def _by_convolution(small: Tensor, kernel: Tensor, bias: Tensor | None) -> Tensor:
    """Return images [N B 2H 2W] of [N A H W] and a kernel [A B 4 4].

    The four pixels that take the place of one are as many channels of a convolution with a kernel [4B A 3 3], which has
    of [A B 4 4] the taps that fall on each of the four (Shi et al. 2016, "Is the deconvolution layer the same as a
    convolutional layer?"), and zeros elsewhere. They are laid side by side afterwards.
    """
    n, _, height_px, width_px = small.shape
    before, after = kernel.shape[:2]
    taps = F.pad(kernel, (PADDING,) * 4).reshape(before, after, 3, STRIDE, 3, STRIDE).flip(2, 4)
    taps = taps.permute(3, 5, 1, 2, 4, 0).reshape(-1, 3, 3, before).permute(0, 3, 1, 2)
    pixels = F.conv2d(small, taps, None if bias is None else bias.repeat(STRIDE * STRIDE), padding=1)
    rows = pixels.permute(0, 2, 3, 1).reshape(n, height_px, width_px, STRIDE, STRIDE * after).transpose(2, 3)
    return rows.reshape(n, STRIDE * height_px, STRIDE * width_px, after).permute(0, 3, 1, 2)


def _in_bf16(images: Tensor) -> bool:
    """Return whether autocast would convolve these images in bf16 on a processor."""
    in_autocast = images.device.type == "cpu" and torch.is_autocast_enabled("cpu")
    return in_autocast and torch.get_autocast_dtype("cpu") == torch.bfloat16


def _as_bf16(*tensors: Tensor | None) -> tuple[Tensor | None, ...]:
    return tuple(None if tensor is None else tensor.bfloat16() for tensor in tensors)
