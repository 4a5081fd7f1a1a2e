"""Estimates where latents lie, as a mixture of normal distributions: for families whose samples start from there.

With full covariances, as Ghosh et al. 2020 (sec. 4) fit them to autoencoders of many kinds; the fit itself is
scikit-learn's, which a model that only draws samples does without. Knows nothing of nets or runs.
"""

import warnings

import torch
from torch import Tensor

POINTS = 1000  # that a mixture is fitted to, at least: with few images several latents of each
FEWEST_IMAGES = 10  # of a normal distribution: with five, samples of ten digits lay too near to these
LEAST_VARIANCE = 1e-3  # added to each; a latent's own, under the prior, is 1


def mixture_of(mean: Tensor, log_variance: Tensor, most: int) -> tuple[Tensor, Tensor, Tensor]:
    """Return weights [C], means [C Z] and covariances [C Z Z] that fit the latents N(mean, exp(log_variance)) [N Z].

    At most so many normal distributions, with FEWEST_IMAGES each on average, in the order in which they lie along the
    axis that they differ most in: a lower temperature draws those in the middle. The same for the same latents.

    Raises ValueError for latents that are not finite, or so far apart, or so uncertain, that no mixture can be found.
    """
    # Here, because it takes a second to import and most processes never fit.
    from sklearn.exceptions import ConvergenceWarning
    from sklearn.mixture import GaussianMixture
    from threadpoolctl import threadpool_limits

    components = max(1, min(most, len(mean) // FEWEST_IMAGES))
    draws = -(-POINTS // len(mean))
    noise = torch.randn(draws, *mean.shape, generator=torch.Generator().manual_seed(0), dtype=mean.dtype)
    points = (mean + (0.5 * log_variance).exp() * noise).flatten(0, 1)
    if not points.isfinite().all():
        raise ValueError("latents that are not finite")
    mixture = GaussianMixture(components, reg_covar=LEAST_VARIANCE, random_state=0)
    # One thread: several add up in any order. What has not converged fits better than the prior still.
    with threadpool_limits(1), warnings.catch_warnings():
        for kind in (ConvergenceWarning, RuntimeWarning):  # the latter before the ValueError
            warnings.simplefilter("ignore", kind)
        mixture.fit(points.numpy())
    weights, means, covariances = map(torch.from_numpy, (mixture.weights_, mixture.means_, mixture.covariances_))
    order = _along_the_main_axis(means)
    return weights[order], means[order], covariances[order]


def _along_the_main_axis(points: Tensor) -> Tensor:
    """Return the order [C] of `points` [C Z] along their first principal axis."""
    centred = points - points.mean(dim=0)
    axis = torch.linalg.svd(centred, full_matrices=False).Vh[0]
    return (centred @ (axis * axis[axis.abs().argmax()].sign())).argsort(stable=True)
