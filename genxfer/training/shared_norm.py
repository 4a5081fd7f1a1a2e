"""BatchNorm over the images of all ranks, on processors, where torch has none, and on GPUs.

torch's own for GPUs (SyncBatchNorm) cannot be differentiated twice, as a penalty on gradients wants
(https://github.com/pytorch/pytorch/issues/61222). Gets what ranks tell each other as a function; knows nothing of
processes.
"""

from collections.abc import Callable, Sequence
from functools import cache
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

# Equal-shaped tensors [...] -> those of all ranks [R K ...] on the same device, the same on every rank.
Gather = Callable[[Sequence[Tensor]], Tensor]


class SharedBatchNorm(nn.Module):
    """BatchNorm (Ioffe & Szegedy 2015) over the images of all ranks; with the parameters and buffers of `norm`.

    In eval mode it is `norm` itself. Every rank must have as many images as the others. Twice differentiable.
    """

    running_mean: Tensor
    running_var: Tensor
    num_batches_tracked: Tensor

    def __init__(self, norm: nn.BatchNorm2d, gather: Gather, ranks: int) -> None:
        super().__init__()
        self.eps, self.momentum = norm.eps, norm.momentum
        self.gather, self.ranks = gather, ranks
        self.weight, self.bias = norm.weight, norm.bias
        for name, buffer in norm.named_buffers():
            self.register_buffer(name, buffer)
        self.train(norm.training)

    def forward(self, x: Tensor) -> Tensor:
        """Return x [N C H W] normalised by the mean and variance of each channel over all ranks."""
        if not self.training:
            return F.batch_norm(x, self.running_mean, self.running_var, self.weight, self.bias, False, 0.0, self.eps)
        self.num_batches_tracked += 1
        momentum = self.momentum if self.momentum is not None else 1 / self.num_batches_tracked.item()
        running = (self.running_mean, self.running_var, momentum)
        output: Tensor = _Normalise.apply(x, self.weight, self.bias, self.eps, self.gather, self.ranks, running)
        return output


def convert(net: nn.Module, gather: Gather, ranks: int) -> nn.Module:
    """Return `net` with every BatchNorm2d replaced, in place where it is not one itself."""
    if isinstance(net, nn.BatchNorm2d):
        return SharedBatchNorm(net, gather, ranks)
    for name, child in net.named_children():
        setattr(net, name, convert(child, gather, ranks))
    return net


class _Normalise(torch.autograd.Function):
    """The normalisation by torch's fused kernels, one gather over ranks in each direction.

    Passes over images are what takes time: two in forward, as torch's own, and three in backward, one more. So are
    operations on statistics, a dozen of microseconds each: hence few of them.
    """

    @staticmethod
    def forward(
        ctx: Any,
        x: Tensor,
        weight: Tensor,
        bias: Tensor,
        eps: float,
        gather: Gather,
        ranks: int,
        running: tuple[Tensor, Tensor, float],
    ) -> Tensor:
        """Return x normalised; move the `running` mean and unbiased variance by that share, as torch's."""
        unused = torch.empty_like(weight)  # running statistics that nobody reads, but which make the kernel's float32
        moments = gather(torch.batch_norm_update_stats(x, unused, unused, 0.0))
        # Ranks have equally many images: the variance is the mean of theirs and the variance of their means.
        (of_means, _), (mean, variance) = torch.var_mean(moments, dim=0, correction=0)
        variance += of_means
        count = x.numel() // x.shape[1] * ranks
        running_mean, running_variance, momentum = running
        running_mean.lerp_(mean, momentum)
        running_variance.lerp_(variance * (count / max(count - 1, 1)), momentum)
        ctx.save_for_backward(x, weight, bias, mean, variance)
        ctx.eps, ctx.gather, ctx.count = eps, gather, count
        return F.batch_norm(x, mean, variance, weight, bias, False, 0.0, eps)

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, ...]:
        """Return the gradients of x, weight and bias; the latter two of this rank's images."""
        x, weight, bias, mean, variance = ctx.saved_tensors
        if torch.is_grad_enabled():  # the gradient is to be differentiated, which fused kernels are not made for
            wanted = [tensor for tensor, needed in zip((x, weight, bias), ctx.needs_input_grad, strict=False) if needed]
            normalised = _in_parts(x, weight, bias, ctx.eps, ctx.gather, ctx.count)
            found = iter(torch.autograd.grad(normalised, wanted, gradient, create_graph=True))
            return *(next(found) if needed else None for needed in ctx.needs_input_grad[:3]), None, None, None, None
        deviation = (variance + ctx.eps).rsqrt_()
        # Processors take the variance, GPUs the deviation.
        _, of_weight, of_bias = torch.ops.aten.native_batch_norm_backward(
            gradient, x, weight, mean, variance, mean, deviation, False, ctx.eps, [False, True, True]
        )
        # With the means over all images of the gradient, and of its product with x normalised,
        # scale * (gradient - of_bias - of_weight * x normalised) = scale * gradient + slope * x + offset.
        of_weight_mean, of_bias_mean = ctx.gather((of_weight, of_bias)).sum(dim=0).div_(-ctx.count)
        scale = weight * deviation
        slope = deviation.mul_(scale).mul_(of_weight_mean).to(x.dtype)  # rounded before what it is held against
        offset = torch.addcmul(of_bias_mean.mul_(scale), slope, mean, value=-1)
        zero, one = _zeros_and_ones(len(mean), mean.dtype, mean.device)
        of_x = F.batch_norm(gradient, zero, one, scale, offset, False, 0.0, 0.0)
        of_x = torch.addcmul(of_x, x, slope[:, None, None])  # in place it takes longer
        return of_x, of_weight, of_bias, None, None, None, None


@cache
def _zeros_and_ones(channels: int, dtype: torch.dtype, device: torch.device) -> tuple[Tensor, Tensor]:
    """Return the mean and the variance of what is only to be scaled and shifted."""
    return torch.zeros(channels, dtype=dtype, device=device), torch.ones(channels, dtype=dtype, device=device)


def _in_parts(x: Tensor, weight: Tensor, bias: Tensor, eps: float, gather: Gather, count: int) -> Tensor:
    """Return x normalised, by operations that can be differentiated as often as one likes."""
    values = x.float()
    moments = torch.stack([values.sum(dim=(0, 2, 3)), values.square().sum(dim=(0, 2, 3))]).double()
    mean, square = _Total.apply(moments, gather) / count
    variance = (square - mean.square()).clamp_min(0)
    scale = (weight * (variance + eps).rsqrt()).float()
    shift = (bias - mean * scale).float()
    return torch.addcmul(shift[:, None, None], values, scale[:, None, None]).to(x.dtype)


class _Total(torch.autograd.Function):
    """The sum of a tensor over all ranks; its gradient is a sum over all ranks too, and so on."""

    @staticmethod
    def forward(ctx: Any, values: Tensor, gather: Gather) -> Tensor:
        """Return the sum."""
        ctx.gather = gather
        return gather([values])[:, 0].sum(dim=0)

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, None]:
        """Return the gradients' sum."""
        return _Total.apply(gradient, ctx.gather), None
