"""The convolutional variational autoencoder: its nets and its likelihood. Knows nothing of optimizers or files."""

from collections import OrderedDict
from typing import ClassVar

import torch
from torch import Tensor, nn

from genxfer.models.autoencoder import Autoencoder
from genxfer.models.config import VAEConfig
from genxfer.models.elbo import bernoulli_log_likelihood, gaussian_log_likelihood
from genxfer.models.family import ImageShape
from genxfer.models.layers import Double, Flatten, Halve, Unflatten

SLOPE = 0.2  # of every LeakyReLU


class VAE(Autoencoder):
    """The autoencoder of convolutional nets, with a Gaussian or a Bernoulli likelihood."""

    name: ClassVar[str] = "vae"
    memory_format: ClassVar[torch.memory_format] = torch.channels_last

    config: VAEConfig

    def build_encoder(self) -> nn.Sequential:
        """Return the net images [N C H W] -> mean and log-variance [N 2Z]."""
        return build_encoder(self.config, self.shape)

    def build_decoder(self) -> nn.Sequential:
        """Return the net z [N Z] -> logits of the pixels' means [N C H W]."""
        return build_decoder(self.config, self.shape)

    @property
    def density(self) -> bool:
        """Whether the likelihood is the Gaussian one."""
        return self.config.likelihood == "gaussian"

    def log_likelihood(self, pixels: Tensor, logits: Tensor) -> Tensor:
        """Return log p(pixels | logits) in nats [N]."""
        if self.density:
            return gaussian_log_likelihood(pixels, logits.sigmoid(), self.config.observation_std)
        return bernoulli_log_likelihood(pixels, logits)


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
