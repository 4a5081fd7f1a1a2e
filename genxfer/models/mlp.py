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
from genxfer.models.config import MLPGANConfig, MLPVAEConfig
from genxfer.models.elbo import bernoulli_log_likelihood, elbo_terms, kl_to_standard_normal, kl_weight, reparameterise
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

    def decode(self, nets: nn.ModuleDict, noise: Tensor) -> Tensor:
        """Return the generator's images [N C H W] of z [N Z]."""
        images: Tensor = nets["generator"](noise)
        return images


class MLPVAE(Family):
    """Encoder images [N 1 28 28] -> mean and log-variance [N 2Z]; decoder z [N Z] -> pixel logits [N 1 28 28]."""

    name: ClassVar[str] = "mlp_vae"
    phases: ClassVar[tuple[Phase, ...]] = (Phase("main", ("encoder", "decoder")),)
    sampling_nets: ClassVar[tuple[str, ...]] = ("decoder",)

    config: MLPVAEConfig

    def __init__(self, config: MLPVAEConfig, shape: ImageShape) -> None:
        super().__init__(config, shape)
        width = config.width
        self.nets["encoder"] = dense_layers(
            hidden_1=nn.Sequential(nn.Flatten(), nn.Linear(PIXELS, width), nn.ReLU()),
            hidden_2=nn.Sequential(nn.Linear(width, width), nn.ReLU()),
            head=nn.Linear(width, 2 * config.latent_dim),
        )
        self.nets["decoder"] = dense_layers(
            hidden_1=nn.Sequential(nn.Linear(config.latent_dim, width), nn.ReLU()),
            hidden_2=nn.Sequential(nn.Linear(width, width), nn.ReLU()),
            pixels=nn.Sequential(nn.Linear(width, PIXELS), nn.Unflatten(1, (1, SIDE_PX, SIDE_PX))),
        )

    def loss(self, phase: str, real: Tensor, step: Step) -> dict[str, Tensor]:
        """Return the two halves of the negative ELBO, in nats per image."""
        # The objective in float32 even under autocast: a sum over hundreds of pixels outgrows bf16.
        mean, log_variance = self.nets["encoder"](real).float().chunk(2, dim=1)
        noise = step.noise.normal(mean.shape, mean)
        logits = self.nets["decoder"](reparameterise(mean, log_variance, noise)).float()
        return elbo_terms(
            bernoulli_log_likelihood(real.float() / 2 + 0.5, logits),
            kl_to_standard_normal(mean, log_variance),
            kl_weight(self.config.beta, self.config.kl_warmup_kimg, step.images_seen),
            dimensions=PIXELS,
            density=False,
        )

    def noise(self, n: int, generator: torch.Generator) -> Tensor:
        """Return z [n Z], standard normal."""
        return torch.randn(n, self.config.latent_dim, generator=generator)

    def decode(self, nets: nn.ModuleDict, noise: Tensor) -> Tensor:
        """Return the mean images [N C H W] of z [N Z]."""
        pixels: Tensor = nets["decoder"](noise).sigmoid()
        return pixels * 2 - 1


def dense_layers(**layers: nn.Module) -> nn.Sequential:
    """Return the layers one after the other, under their names."""
    return nn.Sequential(OrderedDict(layers))
