"""BatchNorm over the images of all ranks, on processors; on GPUs torch has one.

Gets the sum over ranks as a function; knows nothing of processes.
"""

from collections.abc import Callable
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

Total = Callable[[Tensor], Tensor]  # the sum of equal-shaped tensors over all ranks, on every rank


class SharedBatchNorm(nn.Module):
    """BatchNorm (Ioffe & Szegedy 2015) over the images of all ranks; with the parameters and buffers of `norm`.

    In eval mode it is `norm` itself. Every rank must have as many images as the others. Twice differentiable.
    """

    running_mean: Tensor
    running_var: Tensor
    num_batches_tracked: Tensor

    def __init__(self, norm: nn.BatchNorm2d, total: Total, ranks: int) -> None:
        super().__init__()
        self.eps, self.momentum = norm.eps, norm.momentum
        self.total, self.ranks = total, ranks
        self.weight, self.bias = norm.weight, norm.bias
        for name, buffer in norm.named_buffers():
            self.register_buffer(name, buffer)
        self.train(norm.training)

    def forward(self, x: Tensor) -> Tensor:
        """Return x [N C H W] normalised by the mean and variance of each channel over all ranks."""
        if not self.training:
            return F.batch_norm(x, self.running_mean, self.running_var, self.weight, self.bias, False, 0.0, self.eps)
        count = x.numel() // x.shape[1] * self.ranks
        normalised, mean, variance = _Normalise.apply(x, self.weight, self.bias, self.eps, self.total, count)
        self._track(mean, variance, count)
        output: Tensor = normalised
        return output

    @torch.no_grad()
    def _track(self, mean: Tensor, variance: Tensor, count: int) -> None:
        """Move the running statistics, the variance unbiased as torch's."""
        self.num_batches_tracked += 1
        momentum = self.momentum if self.momentum is not None else 1 / self.num_batches_tracked.item()
        self.running_mean.lerp_(mean, momentum)
        self.running_var.lerp_(variance * (count / max(count - 1, 1)), momentum)


def convert(net: nn.Module, total: Total, ranks: int) -> nn.Module:
    """Return `net` with every BatchNorm2d replaced, in place where it is not one itself."""
    if isinstance(net, nn.BatchNorm2d):
        return SharedBatchNorm(net, total, ranks)
    for name, child in net.named_children():
        setattr(net, name, convert(child, total, ranks))
    return net


class _Normalise(torch.autograd.Function):
    """The normalisation by torch's fused kernels, one sum over ranks in each direction.

    Passes over images are what takes time: two in forward and three in backward, as many as torch's own takes. So are
    operations on statistics, a dozen of microseconds each layer: hence few of them.
    """

    @staticmethod
    def forward(
        ctx: Any, x: Tensor, weight: Tensor, bias: Tensor, eps: float, total: Total, count: int
    ) -> tuple[Tensor, Tensor, Tensor]:
        """Return x normalised, and the mean and the biased variance [C] in float32."""
        # Running statistics that nobody reads, but which make the kernel's float32.
        unused = torch.empty_like(weight)
        moments = torch.stack(torch.batch_norm_update_stats(x, unused, unused, 0.0)).double()
        moments[1].addcmul_(moments[0], moments[0])  # the mean square
        moments = total(moments).mul_(x.numel() // x.shape[1] / count)
        moments[1].addcmul_(moments[0], moments[0], value=-1).clamp_min_(0)
        mean, variance = moments.float().unbind()
        ctx.save_for_backward(x, weight, bias, mean, variance)
        ctx.mark_non_differentiable(mean, variance)
        ctx.eps, ctx.total, ctx.count = eps, total, count
        return F.batch_norm(x, mean, variance, weight, bias, False, 0.0, eps), mean, variance

    @staticmethod
    def backward(ctx: Any, gradient: Tensor, *_: Tensor) -> tuple[Tensor | None, ...]:
        """Return the gradients of x, weight and bias; the latter two of this rank's images."""
        x, weight, bias, mean, variance = ctx.saved_tensors
        if torch.is_grad_enabled():  # the gradient is to be differentiated, which fused kernels are not made for
            wanted = [tensor for tensor, needed in zip((x, weight, bias), ctx.needs_input_grad, strict=False) if needed]
            normalised = _in_parts(x, weight, bias, ctx.eps, ctx.total, ctx.count)
            found = iter(torch.autograd.grad(normalised, wanted, gradient, create_graph=True))
            return *(next(found) if needed else None for needed in ctx.needs_input_grad[:3]), None, None, None
        _, of_weight, of_bias = torch.ops.aten.native_batch_norm_backward(
            gradient, x, weight, mean, variance, None, None, False, ctx.eps, [False, True, True]
        )
        # With the means over all images of the gradient, and of its product with x normalised,
        # scale * (gradient - of_bias - of_weight * x normalised) = scale * gradient + slope * x + offset.
        of_weight_mean, of_bias_mean = (ctx.total(torch.stack([of_weight, of_bias]).double()) / ctx.count).float()
        deviation = (variance + ctx.eps).rsqrt()
        scale = weight * deviation
        slope = (scale * deviation * -of_weight_mean).to(x.dtype)  # rounded before what it is held against
        offset = -(slope * mean).addcmul_(scale, of_bias_mean)
        zero, one = torch.zeros_like(mean), torch.ones_like(mean)
        of_x = F.batch_norm(gradient, zero, one, scale, offset, False, 0.0, 0.0)
        of_x = torch.addcmul(of_x, x, slope[:, None, None])  # in place it takes longer
        return of_x, of_weight, of_bias, None, None, None


def _in_parts(x: Tensor, weight: Tensor, bias: Tensor, eps: float, total: Total, count: int) -> Tensor:
    """Return x normalised, by operations that can be differentiated as often as one likes."""
    values = x.float()
    moments = torch.stack([values.sum(dim=(0, 2, 3)), values.square().sum(dim=(0, 2, 3))]).double()
    mean, square = _Total.apply(moments, total) / count
    variance = (square - mean.square()).clamp_min(0)
    scale = (weight * (variance + eps).rsqrt()).float()
    shift = (bias - mean * scale).float()
    return torch.addcmul(shift[:, None, None], values, scale[:, None, None]).to(x.dtype)


class _Total(torch.autograd.Function):
    """The sum of a tensor over all ranks; its gradient is a sum over all ranks too, and so on."""

    @staticmethod
    def forward(ctx: Any, values: Tensor, total: Total) -> Tensor:
        """Return the sum."""
        ctx.total = total
        return total(values)

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, None]:
        """Return the gradients' sum."""
        return _Total.apply(gradient, ctx.total), None
