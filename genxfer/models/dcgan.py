"""Convolutional GAN: the nets of DCGAN (Radford et al. 2016) under the objective of today's GANs.

Non-saturating logistic loss (Goodfellow et al. 2014), R1 gradient penalty (Mescheder et al. 2018) taken lazily (Karras
et al. 2020, StyleGAN2), and differentiable augmentation of real and fake alike (Zhao et al. 2020). Everything else
that such a GAN needs, the averaged generator and the optimizers among it, is the engine's; this file does not know it.
"""

from collections import OrderedDict
from typing import ClassVar

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from genxfer.models.adversarial import COLLAPSED, SATURATED, spread
from genxfer.models.config import DCGANConfig, doublings
from genxfer.models.family import Family, ImageShape, Phase, Step, Watch
from genxfer.models.layers import Double, Flatten, Halve, Tanh, Unflatten
from genxfer.models.miner import mined

SLOPE = 0.2  # of every LeakyReLU


class DCGAN(Family):
    """Generator z [N Z] -> images [N C H W]; discriminator images -> logits [N 1]; a phase for each."""

    name: ClassVar[str] = "dcgan"
    phases: ClassVar[tuple[Phase, ...]] = (
        Phase("discriminator", ("discriminator",), betas=(0.0, 0.99)),
        Phase("generator", ("generator",), betas=(0.0, 0.99)),
    )
    sampling_nets: ClassVar[tuple[str, ...]] = ("generator",)
    watched: ClassVar[tuple[Watch, ...]] = (COLLAPSED, SATURATED)
    memory_format: ClassVar[torch.memory_format] = torch.channels_last  # 1.7 to 3.5 times faster in bf16 on a CPU

    config: DCGANConfig

    def __init__(self, config: DCGANConfig, shape: ImageShape) -> None:
        super().__init__(config, shape)
        self.nets["generator"] = mined(build_generator(config, shape), config.latent_dim, config.miner_width)
        self.nets["discriminator"] = build_discriminator(config, shape)

    def loss(self, phase: str, real: Tensor, step: Step) -> dict[str, Tensor]:
        """Return the logistic loss of one side: the generator's, or the discriminator's with R1 when it is due."""
        z = step.latent(step.noise.normal((len(real), self.config.latent_dim), real))
        if phase == "generator":
            fake = self.nets["generator"](z)
            logits = self._logits(step.augment(fake))
            return {"generator": F.softplus(-logits).mean()} | spread(fake, real)
        return self._discriminator_loss(real, z, step)

    def noise(self, n: int, generator: torch.Generator) -> Tensor:
        """Return z [n Z], standard normal."""
        return torch.randn(n, self.config.latent_dim, generator=generator)

    def decode(self, nets: nn.ModuleDict, latent: Tensor) -> Tensor:
        """Return the generator's images [N C H W] of z [N Z]."""
        images: Tensor = nets["generator"](latent)
        return images

    def _discriminator_loss(self, real: Tensor, z: Tensor, step: Step) -> dict[str, Tensor]:
        with torch.no_grad():
            fake = self.nets["generator"](z)
        both = step.augment(torch.cat([real.to(fake.dtype), fake]), sets=2)
        real_logits, fake_logits = self._logits_of_both(both)
        terms = {
            "discriminator_real": F.softplus(-real_logits).mean(),
            "discriminator_fake": F.softplus(fake_logits).mean(),
            "~logits_real": real_logits.mean().detach(),
            "~logits_real_sign": real_logits.sign().mean().detach(),
            "~logits_fake": fake_logits.mean().detach(),
        }
        if self.config.r1_gamma > 0 and step.index % self.config.r1_every == 0:
            # Taken once in `r1_every` steps, so it weighs that much more: the average pull stays gamma / 2.
            weight = self.config.r1_gamma / 2 * self.config.r1_every
            penalty = squared_gradient_norm(self.nets["discriminator"], both[: len(real)]).mean()
            terms |= {"r1": weight * penalty, "~r1_penalty": penalty.detach()}
        return terms

    def _logits_of_both(self, both: Tensor) -> tuple[Tensor, Tensor]:
        if self.config.discriminator_normalization == "batch":  # must not let real and fake meet
            real, fake = both.chunk(2)
            return self._logits(real), self._logits(fake)
        real_logits, fake_logits = self._logits(both).chunk(2)
        return real_logits, fake_logits

    def _logits(self, images: Tensor) -> Tensor:
        logits: Tensor = self.nets["discriminator"](images)
        return logits.float()


def squared_gradient_norm(discriminator: nn.Module, real: Tensor) -> Tensor:
    """Return |d logit / d image|^2 [N] at `real` [N C H W], differentiable (R1 of Mescheder et al. 2018, eq. 9).

    `real` are the augmented images: the slope is held down where the discriminator is trained, and no second
    derivative of the augmentation is needed. Under autocast to bf16 its gradient in the weights is within 1 to 4 % of
    that in float32, twice as far as that of the loss itself (docs/training-speed.md).
    """
    real = real.detach().float().requires_grad_()
    logits = discriminator(real).float()
    (gradient,) = torch.autograd.grad(logits.sum(), real, create_graph=True)
    return gradient.square().sum(dim=(1, 2, 3))


def build_generator(config: DCGANConfig, shape: ImageShape) -> nn.Sequential:
    """Return the net z [N Z] -> images [N C H W] in [-1, 1]; its children are named as the config's layer groups."""
    *blocks, projection = config.layer_groups(shape.resolution_px)["generator"][: doublings(shape.resolution_px) + 1]
    channels = config.block_channels(len(blocks))
    deepest = channels[-1]
    layers: OrderedDict[str, nn.Module] = OrderedDict()
    layers[projection] = nn.Sequential(
        nn.Linear(config.latent_dim, deepest * 4 * 4, bias=False),
        Unflatten(deepest, 4),
        nn.BatchNorm2d(deepest),
        nn.LeakyReLU(SLOPE, inplace=True),
    )
    for i in reversed(range(1, len(blocks))):  # block i doubles the side to resolution_px / 2^i
        layers[blocks[i]] = nn.Sequential(
            Double(channels[i], channels[i - 1], bias=False),
            nn.BatchNorm2d(channels[i - 1]),
            nn.LeakyReLU(SLOPE, inplace=True),
        )
    layers[blocks[0]] = nn.Sequential(Double(channels[0], shape.channels), Tanh())
    return initialise(nn.Sequential(layers))


def build_discriminator(config: DCGANConfig, shape: ImageShape) -> nn.Sequential:
    """Return the net images [N C H W] -> logits [N 1]; its children are named as the config's layer groups."""
    *blocks, head = config.layer_groups(shape.resolution_px)["discriminator"]
    channels = config.block_channels(len(blocks))
    layers: OrderedDict[str, nn.Module] = OrderedDict()
    # No normalisation next to the pixels: it would hide their brightness and contrast.
    layers[blocks[0]] = nn.Sequential(Halve(shape.channels, channels[0]), nn.LeakyReLU(SLOPE, inplace=True))
    for i in range(1, len(blocks)):
        layers[blocks[i]] = nn.Sequential(
            Halve(channels[i - 1], channels[i], bias=config.discriminator_normalization == "none"),
            normalization(config.discriminator_normalization, channels[i]),
            nn.LeakyReLU(SLOPE, inplace=True),
        )
    layers[head] = nn.Sequential(Flatten(), nn.Linear(channels[-1] * 4 * 4, 1))
    return initialise(nn.Sequential(layers))


def normalization(name: str, channels: int) -> nn.Module:
    """Return the discriminator's normalisation layer: `none`, `batch`, `instance` or `group`."""
    layers = {
        "none": lambda: nn.Identity(),
        "batch": lambda: nn.BatchNorm2d(channels),
        "instance": lambda: nn.InstanceNorm2d(channels, affine=True),
        "group": lambda: nn.GroupNorm(groups_of(channels), channels),
    }
    return layers[name]()


def groups_of(channels: int) -> int:
    """Return how many groups of equal size `channels` are normalised in: 16 channels each, or the next size up."""
    return next(groups for groups in range(max(1, channels // 16), 0, -1) if channels % groups == 0)


def initialise(net: nn.Sequential) -> nn.Sequential:
    """Draw every convolution and linear layer so that signals keep their size through LeakyReLU (He et al. 2015).

    The N(0, 0.02) of the DCGAN paper counts on a normalisation after every layer, which the discriminator may lack.
    """
    for module in net.modules():
        if isinstance(module, nn.Conv2d | nn.ConvTranspose2d | nn.Linear):
            nn.init.normal_(module.weight, std=(2 / (1 + SLOPE**2) / fan_in(module)) ** 0.5)
            if module.bias is not None:
                nn.init.zeros_(module.bias)
    return net


def fan_in(module: nn.Conv2d | nn.ConvTranspose2d | nn.Linear) -> int:
    """Return how many inputs each output of `module` sums over: with stride 2, a quarter of a transposed kernel."""
    if isinstance(module, nn.Linear):
        return module.in_features
    taps = module.kernel_size[0] * module.kernel_size[1]
    if isinstance(module, nn.ConvTranspose2d):
        taps //= module.stride[0] * module.stride[1]
    return module.in_channels * taps
