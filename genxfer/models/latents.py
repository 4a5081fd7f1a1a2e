"""Where an autoencoder's latents lie: a mixture of normal distributions, from which samples start.

The decoder learns from the encoder's latents, and these fill only a part of the prior; with few images a small part, so
that most of what is drawn from the prior is nothing that the decoder has met. So the latents' own density is estimated
after training (ex-post density estimation; Ghosh et al. 2020, sec. 4). The net has buffers alone: no gradient moves it.
Knows nothing of encoders, nor of how a mixture is fitted.
"""

import math

import torch
from torch import Tensor, nn


class LatentMixture(nn.Module):
    """Normal noise [N Z+1] -> latents [N Z]: the last number chooses a normal distribution, the others the place in it.

    As it is made, all K of them are the prior: standard normal.
    """

    shares: Tensor  # [K] of the latents, up to and with each normal distribution
    means: Tensor  # [K Z]
    factors: Tensor  # [K Z Z] Cholesky factors of the covariances

    def __init__(self, latent_dim: int, components: int) -> None:
        super().__init__()
        self.register_buffer("shares", torch.ones(components))
        self.register_buffer("means", torch.zeros(components, latent_dim))
        self.register_buffer("factors", torch.eye(latent_dim).repeat(components, 1, 1))

    def __len__(self) -> int:
        return len(self.shares)

    def forward(self, noise: Tensor) -> Tensor:
        """Return latents [N Z] of `noise` [N Z+1]."""
        place, choice = noise[:, :-1], noise[:, -1:]
        share = 0.5 + 0.5 * torch.erf(choice / math.sqrt(2))  # uniform from 0 to 1
        chosen = (share > self.shares[:-1]).sum(dim=1)
        latents = torch.einsum("kij,nj->nki", self.factors, place) + self.means
        return latents[torch.arange(len(noise), device=noise.device), chosen]

    @torch.no_grad()
    def hold(self, weights: Tensor, means: Tensor, covariances: Tensor) -> None:
        """Become the mixture of C <= K normal distributions, of `weights` [C], `means` [C Z], `covariances` [C Z Z].

        Raises ValueError, and stays as it is, where that is none in finite numbers of this net's precision.
        """
        count = len(weights)
        factors, failed = torch.linalg.cholesky_ex(covariances)
        means, factors = means.to(self.means), factors.to(self.factors)
        if failed.any() or not (means.isfinite().all() and factors.isfinite().all()):
            raise ValueError("no mixture of normal distributions in finite numbers")
        self.shares.fill_(1.0)  # those beyond are never chosen
        self.shares[: count - 1] = weights.cumsum(0)[:-1]
        self.means[:count] = means
        self.factors[:count] = factors
