"""Flow matching along straight lines: rectified flow (Liu et al. 2023; Lipman et al. 2023) with a small U-Net.

On the line x_t = (1 - t) noise + t data the velocity is data - noise; the net learns its mean given x_t and t, and
sampling follows it from noise (t = 0) to data (t = 1) with Heun's method, in steps that are shorter at the noise, where
the way bends most. `t` is logit-normal in training (Esser et al. 2024): the middle of the line, where the answer is
least obvious, comes most often. Knows nothing of optimizers, files or the pipeline.
"""

import math
from collections.abc import Callable, Sequence
from itertools import pairwise
from typing import ClassVar

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from genxfer.models.config import FlowConfig
from genxfer.models.family import Family, ImageShape, Modulation, Phase, Step

FREQUENCIES = 32  # of the time embedding, each as sine and cosine
HIGHEST_FREQUENCY = 1000.0
SHIFT = 2.0  # of the sampling times: half of the steps within the first third of the way; measured in EXPERIMENTS.md


class Flow(Family):
    """U-Net: x_t [N C H W] and t [N] -> velocity [N C H W]; one phase `main`."""

    name: ClassVar[str] = "flow"
    phases: ClassVar[tuple[Phase, ...]] = (Phase("main", ("unet",), betas=(0.9, 0.99)),)
    sampling_nets: ClassVar[tuple[str, ...]] = ("unet",)
    memory_format: ClassVar[torch.memory_format] = torch.contiguous_format  # GroupNorm's channels_last backward is slow
    checked_samples: ClassVar[int] = 32

    config: FlowConfig

    def __init__(self, config: FlowConfig, shape: ImageShape) -> None:
        super().__init__(config, shape)
        self.nets["unet"] = UNet(config, shape)

    def loss(self, phase: str, real: Tensor, step: Step) -> dict[str, Tensor]:
        """Return the squared error of the velocity on the lines between `real` and fresh noise."""
        t = logit_normal(step.noise.normal((len(real),), real))
        noise = step.noise.normal(real.shape, real)
        along = t.view(-1, 1, 1, 1)
        velocity = self.nets["unet"]((1 - along) * noise + along * real, t)
        return {"velocity": F.mse_loss(velocity.float(), real - noise)}

    def noise(self, n: int, generator: torch.Generator) -> Tensor:
        """Return noise [n C H W], standard normal."""
        shape = (self.shape.channels, self.shape.resolution_px, self.shape.resolution_px)
        return torch.randn(n, *shape, generator=generator)

    def decode(self, nets: nn.ModuleDict, latent: Tensor) -> Tensor:
        """Return the images [N C H W] to which the flow carries `latent` [N C H W], which is noise."""
        return heun(lambda x, t: nets["unet"](x, t).float(), latent, shifted_times(self.config.sample_steps))


def logit_normal(normal: Tensor) -> Tensor:
    """Return t [N] in (0, 1) whose logit is the standard `normal` [N] (Esser et al. 2024, eq. 19)."""
    return normal.sigmoid()


def shifted_times(steps: int) -> list[float]:
    """Return `steps` + 1 times from 0 to 1, closer to each other at the noise (Esser et al. 2024, eq. 23)."""
    equal = (i / steps for i in range(steps + 1))
    return [t / (t + SHIFT * (1 - t)) for t in equal]


def heun(velocity: Callable[[Tensor, Tensor], Tensor], x: Tensor, times: Sequence[float]) -> Tensor:
    """Return x(last) of dx/dt = velocity(x, t [N]) from x(first) = `x` [N ...], in steps of second order.

    The last step is Euler's, as in Karras et al. (2022, algorithm 1): at its end, t = 1, the net was never trained.
    """
    for t, after in pairwise(times):
        slope = velocity(x, x.new_full((len(x),), t))
        if after < times[-1]:
            there = velocity(x + (after - t) * slope, x.new_full((len(x),), after))
            slope = (slope + there) / 2
        x = x + (after - t) * slope
    return x


class UNet(nn.Module):
    """x_t [N C H W], t [N] -> velocity [N C H W]; its children are named as the config's layer groups."""

    def __init__(self, config: FlowConfig, shape: ImageShape) -> None:
        super().__init__()
        _, *self.levels, _ = config.layer_groups(shape.resolution_px)["unet"]
        features, channels = config.most_channels, config.block_channels(len(self.levels))
        self.image = ImageSide(shape.channels, config.width)
        above = config.width
        for name, here in zip(self.levels, channels, strict=True):
            self.add_module(
                name, Level(above, here, features, top=name == self.levels[0], bottom=name == self.levels[-1])
            )
            above = here
        self.time = TimeEmbedding(features)

    def forward(self, x: Tensor, t: Tensor) -> Tensor:
        """Return the velocity [N C H W] at x [N C H W] and t [N]."""
        time = self.time(t)  # [N T]
        levels = [self.get_submodule(name) for name in self.levels]
        x = self.image.embed(x)
        skips = []
        for level in levels:
            x = level.descend(x, time)  # type: ignore[operator]
            skips.append(x)
        for level, skip in zip(reversed(levels), reversed(skips), strict=True):
            x = level.ascend(x, skip, time)  # type: ignore[operator]
        return self.image.velocity(x)


class ImageSide(nn.Module):
    """The first and the last layer: pixels to features and features to the velocity of pixels."""

    def __init__(self, image_channels: int, width: int) -> None:
        super().__init__()
        self.enter = nn.Conv2d(image_channels, width, 3, padding=1)
        self.norm = group_norm(width)
        self.leave = nn.Conv2d(width, image_channels, 3, padding=1)
        nn.init.zeros_(self.leave.weight)  # the first answer is a velocity of about 0

    def embed(self, x: Tensor) -> Tensor:
        """Return features [N width H W] of x [N C H W]."""
        features: Tensor = self.enter(x)
        return features

    def velocity(self, features: Tensor) -> Tensor:
        """Return the velocity [N C H W] from the last features [N width H W]."""
        velocity: Tensor = self.leave(F.silu(self.norm(features)))
        return velocity


class Level(nn.Module):
    """One resolution of the U-Net, on the way down and on the way up; the bottom level attends over all positions."""

    def __init__(self, above: int, here: int, features: int, *, top: bool, bottom: bool) -> None:
        super().__init__()
        self.enter: nn.Module = nn.Identity() if top else nn.Conv2d(above, above, 3, stride=2, padding=1)
        self.down = ResidualBlock(above, here, features)
        self.middle = Middle(here, features) if bottom else None
        self.up = ResidualBlock(2 * here, here, features)
        self.leave: nn.Module = nn.Identity() if top else nn.Conv2d(here, above, 1)
        self.top = top

    def descend(self, x: Tensor, time: Tensor) -> Tensor:
        """Return features [N here H W] of x from the level above [N above 2H 2W] (the top level: the same size)."""
        features: Tensor = self.down(self.enter(x), time)
        return features

    def ascend(self, x: Tensor, skip: Tensor, time: Tensor) -> Tensor:
        """Return features for the level above [N above 2H 2W] from those below and the way down [N here H W]."""
        if self.middle is not None:
            x = self.middle(x, time)
        x = self.up(torch.cat([x, skip], dim=1), time)
        if self.top:
            return x
        # 1x1 and before it grows: a fifth of the net's work less than 3x3 after; the next block smooths the steps.
        return F.interpolate(self.leave(x), scale_factor=2.0, mode="nearest")


class Middle(nn.Module):
    """The bottom of the U-Net: attention, then a residual block; [N C H W] -> [N C H W]."""

    def __init__(self, channels: int, features: int) -> None:
        super().__init__()
        self.attention = Attention(channels)
        self.block = ResidualBlock(channels, channels, features)

    def forward(self, x: Tensor, time: Tensor) -> Tensor:
        """Return x [N C H W] after attention and the block."""
        features: Tensor = self.block(self.attention(x), time)
        return features


class ResidualBlock(nn.Module):
    """GroupNorm, SiLU, convolution, twice, around a skip; time scales and shifts the second norm (as in ADM, 2021)."""

    def __init__(self, before: int, after: int, features: int) -> None:
        super().__init__()
        self.norm_1 = group_norm(before)
        self.conv_1 = nn.Conv2d(before, after, 3, padding=1)
        self.time = Modulation(features, 2 * after)
        self.norm_2 = group_norm(after)
        self.conv_2 = nn.Conv2d(after, after, 3, padding=1)
        nn.init.zeros_(self.conv_2.weight)  # a block starts as its skip
        self.skip: nn.Module = nn.Identity() if before == after else nn.Conv2d(before, after, 1)

    def forward(self, x: Tensor, time: Tensor) -> Tensor:
        """Return [N after H W] from x [N before H W] and time features [N T]."""
        y = self.conv_1(F.silu(self.norm_1(x)))
        scale, shift = self.time(time)[:, :, None, None].chunk(2, dim=1)
        y = self.conv_2(F.silu(self.norm_2(y) * (1 + scale) + shift))
        result: Tensor = self.skip(x) + y
        return result


class Attention(nn.Module):
    """Self-attention over the H x W positions, around a skip (Vaswani et al. 2017)."""

    def __init__(self, channels: int, head_channels: int = 32) -> None:
        super().__init__()
        self.heads = max(1, channels // head_channels)
        while channels % self.heads:
            self.heads -= 1
        self.norm = group_norm(channels)
        self.query_key_value = nn.Conv2d(channels, 3 * channels, 1, bias=False)  # a key's bias would cancel out
        self.leave = nn.Conv2d(channels, channels, 1)
        nn.init.zeros_(self.leave.weight)

    def forward(self, x: Tensor) -> Tensor:
        """Return x [N C H W] plus what each position gathers from all others."""
        n, c, h, w = x.shape
        heads = self.query_key_value(self.norm(x)).view(n, 3, self.heads, c // self.heads, h * w)
        query, key, value = heads.transpose(3, 4).unbind(dim=1)  # each [N heads HW C/heads]
        gathered = F.scaled_dot_product_attention(query, key, value)
        result: Tensor = x + self.leave(gathered.transpose(2, 3).reshape(n, c, h, w))
        return result


class TimeEmbedding(nn.Module):
    """t [N] in [0, 1] -> features [N T], through sines and cosines of 32 frequencies."""

    frequencies: Tensor

    def __init__(self, features: int) -> None:
        super().__init__()
        frequencies = torch.logspace(0, math.log10(HIGHEST_FREQUENCY), FREQUENCIES)
        self.register_buffer("frequencies", frequencies, persistent=False)
        self.layers = nn.Sequential(
            nn.Linear(2 * FREQUENCIES, features), nn.SiLU(), nn.Linear(features, features), nn.SiLU()
        )

    def forward(self, t: Tensor) -> Tensor:
        """Return features [N T] of t [N]."""
        angles = t[:, None] * self.frequencies
        features: Tensor = self.layers(torch.cat([angles.sin(), angles.cos()], dim=1))
        return features


def group_norm(channels: int) -> nn.GroupNorm:
    """Return GroupNorm in eight groups, or as many as divide `channels`."""
    return nn.GroupNorm(math.gcd(channels, 8), channels)
