"""Fits what an autoencoder's samples start from to where its latents of training images lie.

Normal distributions with full covariances, as Ghosh et al. 2020 (sec. 4) fit them to autoencoders of many kinds; the
fit itself is scikit-learn's. Not learnt step by step but made anew whenever samples are due, from the nets as they are:
a pure function of these and of the images. Knows nothing of runs.
"""

import warnings
from collections.abc import Iterable

import torch
from torch import Tensor

from genxfer.models.autoencoder import Autoencoder
from genxfer.models.latents import LatentMixture

POINTS = 1000  # that a mixture is fitted to, at least: with few images several latents of each
FEWEST_IMAGES = 5  # of a normal distribution: one that stands for one image would draw it again and again
LEAST_VARIANCE = 1e-3  # added to each; a latent's own, under the prior, is 1


@torch.no_grad()
def fit_latents(family: Autoencoder, images: Iterable[Tensor]) -> None:
    """Fit the family's mixture to the latents of `images`, in batches [N C H W] in [-1, 1]; no other net changes.

    Left as it is where the config wants the prior, or a latent is not finite: then the training has diverged, which is
    for others to say.
    """
    if not family.config.latent_components:
        return
    encoder, mixture = family.nets["encoder"], family.nets["latents"]
    assert isinstance(mixture, LatentMixture)
    modes = [(module, module.training) for module in encoder.modules()]
    encoder.eval()
    posteriors = [family.posterior(batch) for batch in images]
    for module, training in modes:
        module.training = training
    mean, log_variance = (torch.cat(side).double().cpu() for side in zip(*posteriors, strict=True))
    if mean.isfinite().all() and log_variance.isfinite().all():
        mixture.hold(*mixture_of(mean, log_variance, len(mixture)))


def mixture_of(mean: Tensor, log_variance: Tensor, most: int) -> tuple[Tensor, Tensor, Tensor]:
    """Return weights [C], means [C Z] and covariances [C Z Z] that fit the latents N(mean, exp(log_variance)) [N Z].

    At most so many normal distributions, with FEWEST_IMAGES each on average. The same for the same latents.
    """
    # Here, because it takes a second to import and most processes never fit.
    from sklearn.exceptions import ConvergenceWarning
    from sklearn.mixture import GaussianMixture
    from threadpoolctl import threadpool_limits

    components = max(1, min(most, len(mean) // FEWEST_IMAGES))
    draws = -(-POINTS // len(mean))
    noise = torch.randn(draws, *mean.shape, generator=torch.Generator().manual_seed(0), dtype=mean.dtype)
    points = (mean + (0.5 * log_variance).exp() * noise).flatten(0, 1)
    mixture = GaussianMixture(components, reg_covar=LEAST_VARIANCE, random_state=0)
    # One thread: several add up in any order. What has not converged fits better than the prior still.
    with threadpool_limits(1), warnings.catch_warnings():
        warnings.simplefilter("ignore", ConvergenceWarning)
        mixture.fit(points.numpy())
    return torch.from_numpy(mixture.weights_), torch.from_numpy(mixture.means_), torch.from_numpy(mixture.covariances_)
