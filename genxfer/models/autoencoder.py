"""What the variational autoencoders have in common: the objective, and where samples start from.

The encoder gives mean and log-variance of z, the decoder logits of the likelihood's mean for every pixel; the objective
is the negative ELBO with a KL weight that warms up (Kingma & Welling 2014; beta of Higgins et al. 2017). A sample is
the decoded mean, not a noisy draw around it, of a z from where the latents of the training images lie. Knows nothing of
how the nets look.
"""

from abc import abstractmethod
from collections.abc import Iterable
from contextlib import suppress
from typing import ClassVar

import torch
from torch import Tensor, nn

from genxfer.models.config import AutoencoderConfig
from genxfer.models.elbo import elbo_terms, kl_to_standard_normal, kl_weight, reparameterise
from genxfer.models.family import Estimate, Family, ImageShape, Phase, Step, evaluating
from genxfer.models.latents import LatentMixture


class Autoencoder(Family):
    """Encoder images [N C H W] -> mean and log-variance [N 2Z]; decoder z [N Z] -> pixel logits; one phase `main`.

    Beside them `latents`, the mixture that z is drawn from: noise [N Z+1] -> z [N Z].
    """

    phases: ClassVar[tuple[Phase, ...]] = (Phase("main", ("encoder", "decoder")),)
    sampling_nets: ClassVar[tuple[str, ...]] = ("decoder", "latents")
    fitted_nets: ClassVar[tuple[str, ...]] = ("latents",)

    config: AutoencoderConfig

    def __init__(self, config: AutoencoderConfig, shape: ImageShape) -> None:
        super().__init__(config, shape)
        self.nets["encoder"] = self.build_encoder()
        self.nets["decoder"] = self.build_decoder()
        self.nets["latents"] = LatentMixture(config.latent_dim, max(config.latent_components, 1))

    @abstractmethod
    def build_encoder(self) -> nn.Module:
        """Return the net images [N C H W] -> mean and log-variance [N 2Z]."""

    @abstractmethod
    def build_decoder(self) -> nn.Module:
        """Return the net z [N Z] -> logits of the pixels' means [N C H W]."""

    @property
    @abstractmethod
    def density(self) -> bool:
        """Whether the likelihood is a density of pixels in [0, 1], not the probability of black-and-white ones."""

    @abstractmethod
    def log_likelihood(self, pixels: Tensor, logits: Tensor) -> Tensor:
        """Return log p(pixels | logits) in nats [N]; both [N C H W] in float32, pixels in [0, 1]."""

    def posterior(self, images: Tensor) -> tuple[Tensor, Tensor]:
        """Return mean and log-variance of z [N Z] each, in float32, of `images` [N C H W] in [-1, 1]."""
        mean, log_variance = self.nets["encoder"](images).float().chunk(2, dim=1)
        return mean, log_variance

    def loss(self, phase: str, real: Tensor, step: Step) -> dict[str, Tensor]:
        """Return the two halves of the negative ELBO, in nats per image."""
        # The objective in float32 even under autocast: a sum over thousands of pixels outgrows bf16.
        mean, log_variance = self.posterior(real)
        noise = step.noise.normal(mean.shape, mean)
        logits = self.nets["decoder"](reparameterise(mean, log_variance, noise)).float()
        return elbo_terms(
            self.log_likelihood(real.float() / 2 + 0.5, logits),
            kl_to_standard_normal(mean, log_variance),
            kl_weight(self.config.beta, self.config.kl_warmup_kimg, step.images_seen),
            dimensions=real[0].numel(),
            density=self.density,
        )

    @torch.no_grad()
    def fit(self, images: Iterable[Tensor], estimate: Estimate) -> None:
        """Fit the mixture to the latents of training images, unless the config wants the prior."""
        if not self.config.latent_components:
            return
        encoder, mixture = self.nets["encoder"], self.nets["latents"]
        assert isinstance(mixture, LatentMixture)
        with evaluating(encoder):
            posteriors = [self.posterior(batch) for batch in images]
        mean, log_variance = (torch.cat(side).double().cpu() for side in zip(*posteriors, strict=True))
        with suppress(ValueError):  # of a training that diverges, which is for the engine to say
            mixture.hold(*estimate(mean, log_variance, len(mixture)))

    def noise(self, n: int, generator: torch.Generator) -> Tensor:
        """Return [n Z+1], standard normal: the last number chooses among the normal distributions."""
        return torch.randn(n, self.config.latent_dim + 1, generator=generator)

    def latent(self, nets: nn.ModuleDict, noise: Tensor) -> Tensor:
        """Return z [N Z] of `noise` [N Z+1]."""
        if not self.config.latent_components:
            return noise[:, :-1]
        latent: Tensor = nets["latents"](noise)
        return latent

    def decode(self, nets: nn.ModuleDict, latent: Tensor) -> Tensor:
        """Return the mean images [N C H W] of z [N Z]."""
        pixels: Tensor = nets["decoder"](latent).sigmoid()
        return pixels * 2 - 1
