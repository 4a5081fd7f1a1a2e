"""The dense nets of the classic tutorials on 28x28 gray images: the smallest readable example of each idea.

`MLPGAN` is the generative adversarial net of Goodfellow et al. (2014), `MLPVAE` the variational autoencoder of Kingma
& Welling (2014) with Bernoulli pixels. Both are whole families like the convolutional ones: same phases, same layer
groups, same sampling. Knows nothing of optimizers, files or the pipeline.
"""

from collections import OrderedDict
from typing import ClassVar

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from genxfer.models.adversarial import COLLAPSED, SATURATED, spread
from genxfer.models.autoencoder import Autoencoder
from genxfer.models.config import MLPGANConfig, MLPVAEConfig
from genxfer.models.elbo import bernoulli_log_likelihood
from genxfer.models.family import Family, ImageShape, Phase, Step, Watch
from genxfer.models.miner import mined

SIDE_PX = 28
PIXELS = SIDE_PX * SIDE_PX
SLOPE = 0.2  # of every LeakyReLU


class MLPGAN(Family):
    """Generator z [N Z] -> images [N 1 28 28]; discriminator images -> logits [N 1]."""

    name: ClassVar[str] = "mlp_gan"
    phases: ClassVar[tuple[Phase, ...]] = (
        Phase("discriminator", ("discriminator",), betas=(0.5, 0.99)),
        Phase("generator", ("generator",), betas=(0.5, 0.99)),
    )
    sampling_nets: ClassVar[tuple[str, ...]] = ("generator",)
    watched: ClassVar[tuple[Watch, ...]] = (COLLAPSED, SATURATED)

    config: MLPGANConfig

    def __init__(self, config: MLPGANConfig, shape: ImageShape) -> None:
        super().__init__(config, shape)
        width = config.width
        generator = dense_layers(
            hidden_1=nn.Sequential(nn.Linear(config.latent_dim, width), nn.ReLU()),
            hidden_2=nn.Sequential(nn.Linear(width, width), nn.ReLU()),
            pixels=nn.Sequential(nn.Linear(width, PIXELS), nn.Tanh(), nn.Unflatten(1, (1, SIDE_PX, SIDE_PX))),
        )
        self.nets["generator"] = mined(generator, config.latent_dim, config.miner_width)
        self.nets["discriminator"] = dense_layers(
            hidden_1=nn.Sequential(nn.Flatten(), nn.Linear(PIXELS, width), nn.LeakyReLU(SLOPE)),
            hidden_2=nn.Sequential(nn.Linear(width, width), nn.LeakyReLU(SLOPE)),
            head=nn.Linear(width, 1),
        )

    def loss(self, phase: str, real: Tensor, step: Step) -> dict[str, Tensor]:
        """Return the logistic loss of one side."""
        generator, discriminator = self.nets["generator"], self.nets["discriminator"]
        z = step.latent(step.noise.normal((len(real), self.config.latent_dim), real))
        if phase == "generator":
            fake = generator(z)
            logits = discriminator(step.augment(fake)).float()
            # Non-saturating: maximise log D(G(z)).
            return {"generator": F.softplus(-logits).mean()} | spread(fake, real)
        with torch.no_grad():
            fake = generator(z)
        real_logits = discriminator(step.augment(real)).float()
        fake_logits = discriminator(step.augment(fake)).float()
        return {
            "discriminator_real": F.softplus(-real_logits).mean(),
            "discriminator_fake": F.softplus(fake_logits).mean(),
            "~logits_real": real_logits.mean().detach(),
            "~logits_real_sign": real_logits.sign().mean().detach(),
            "~logits_fake": fake_logits.mean().detach(),
        }

    def noise(self, n: int, generator: torch.Generator) -> Tensor:
        """Return z [n Z], standard normal."""
        return torch.randn(n, self.config.latent_dim, generator=generator)

    def decode(self, nets: nn.ModuleDict, latent: Tensor) -> Tensor:
        """Return the generator's images [N C H W] of z [N Z]."""
        images: Tensor = nets["generator"](latent)
        return images


class MLPVAE(Autoencoder):
    """The autoencoder of dense nets on images [N 1 28 28], with a Bernoulli likelihood."""

    name: ClassVar[str] = "mlp_vae"

    config: MLPVAEConfig

    def build_encoder(self) -> nn.Sequential:
        """Return the net images [N 1 28 28] -> mean and log-variance [N 2Z]."""
        width = self.config.width
        return dense_layers(
            hidden_1=nn.Sequential(nn.Flatten(), nn.Linear(PIXELS, width), nn.ReLU()),
            hidden_2=nn.Sequential(nn.Linear(width, width), nn.ReLU()),
            head=nn.Linear(width, 2 * self.config.latent_dim),
        )

    def build_decoder(self) -> nn.Sequential:
        """Return the net z [N Z] -> logits of the pixels' means [N 1 28 28]."""
        width = self.config.width
        return dense_layers(
            hidden_1=nn.Sequential(nn.Linear(self.config.latent_dim, width), nn.ReLU()),
            hidden_2=nn.Sequential(nn.Linear(width, width), nn.ReLU()),
            pixels=nn.Sequential(nn.Linear(width, PIXELS), nn.Unflatten(1, (1, SIDE_PX, SIDE_PX))),
        )

    @property
    def density(self) -> bool:
        """Whether the likelihood is a density: no."""
        return False

    def log_likelihood(self, pixels: Tensor, logits: Tensor) -> Tensor:
        """Return log p(pixels | logits) in nats [N]."""
        return bernoulli_log_likelihood(pixels, logits)


def dense_layers(**layers: nn.Module) -> nn.Sequential:
    """Return the layers one after the other, under their names."""
    return nn.Sequential(OrderedDict(layers))
