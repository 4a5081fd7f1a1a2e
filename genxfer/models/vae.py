"""Convolutional variational autoencoder (Kingma & Welling 2014; beta of Higgins et al. 2017).

The encoder gives mean and log-variance of z, the decoder the likelihood's mean for every pixel; the objective is the
negative ELBO with a KL weight that warms up. Sampling decodes z ~ N(0, 1) and shows the mean, not a noisy draw around
it. Knows nothing of optimizers, files or the pipeline.
"""

from collections import OrderedDict
from typing import ClassVar

import torch
from torch import Tensor, nn

from genxfer.models.config import VAEConfig
from genxfer.models.elbo import (
    bernoulli_log_likelihood,
    elbo_terms,
    gaussian_log_likelihood,
    kl_to_standard_normal,
    kl_weight,
    reparameterise,
)
from genxfer.models.family import Family, ImageShape, Phase, Step
from genxfer.models.layers import Double, Flatten, Halve, Unflatten

SLOPE = 0.2  # of every LeakyReLU


class VAE(Family):
    """Encoder images [N C H W] -> mean and log-variance [N 2Z]; decoder z [N Z] -> pixel logits; one phase `main`."""

    name: ClassVar[str] = "vae"
    phases: ClassVar[tuple[Phase, ...]] = (Phase("main", ("encoder", "decoder")),)
    sampling_nets: ClassVar[tuple[str, ...]] = ("decoder",)
    memory_format: ClassVar[torch.memory_format] = torch.channels_last

    config: VAEConfig

    def __init__(self, config: VAEConfig, shape: ImageShape) -> None:
        super().__init__(config, shape)
        self.nets["encoder"] = build_encoder(config, shape)
        self.nets["decoder"] = build_decoder(config, shape)

    def loss(self, phase: str, real: Tensor, step: Step) -> dict[str, Tensor]:
        """Return the two halves of the negative ELBO, in nats per image."""
        # The objective in float32 even under autocast: a sum over thousands of pixels outgrows bf16.
        mean, log_variance = self.nets["encoder"](real).float().chunk(2, dim=1)
        noise = step.noise.normal(mean.shape, mean)
        logits = self.nets["decoder"](reparameterise(mean, log_variance, noise)).float()
        return elbo_terms(
            self._log_likelihood(real.float() / 2 + 0.5, logits),
            kl_to_standard_normal(mean, log_variance),
            kl_weight(self.config.beta, self.config.kl_warmup_kimg, step.images_seen),
            dimensions=real[0].numel(),
            density=self.config.likelihood == "gaussian",
        )

    def noise(self, n: int, generator: torch.Generator) -> Tensor:
        """Return z [n Z], standard normal."""
        return torch.randn(n, self.config.latent_dim, generator=generator)

    def decode(self, nets: nn.ModuleDict, noise: Tensor) -> Tensor:
        """Return the mean images [N C H W] of z [N Z]."""
        pixels: Tensor = nets["decoder"](noise).sigmoid()
        return pixels * 2 - 1

    def _log_likelihood(self, pixels: Tensor, logits: Tensor) -> Tensor:
        if self.config.likelihood == "bernoulli":
            return bernoulli_log_likelihood(pixels, logits)
        return gaussian_log_likelihood(pixels, logits.sigmoid(), self.config.observation_std)


def build_encoder(config: VAEConfig, shape: ImageShape) -> nn.Sequential:
    """Return the net images [N C H W] -> mean and log-variance [N 2Z]; children named as the config's layer groups."""
    *blocks, head = config.layer_groups(shape.resolution_px)["encoder"]
    channels = config.block_channels(len(blocks))
    layers: OrderedDict[str, nn.Module] = OrderedDict()
    for name, before, after in zip(blocks, [shape.channels, *channels], channels, strict=False):
        layers[name] = nn.Sequential(
            Halve(before, after, bias=False), nn.BatchNorm2d(after), nn.LeakyReLU(SLOPE, inplace=True)
        )
    layers[head] = nn.Sequential(Flatten(), nn.Linear(channels[-1] * 4 * 4, 2 * config.latent_dim))
    return nn.Sequential(layers)


def build_decoder(config: VAEConfig, shape: ImageShape) -> nn.Sequential:
    """Return the net z [N Z] -> logits of the pixels' means [N C H W]; children named as the config's layer groups."""
    *blocks, projection = config.layer_groups(shape.resolution_px)["decoder"]
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
    layers[blocks[0]] = Double(channels[0], shape.channels)
    return nn.Sequential(layers)
