"""What samples of an autoencoder start from: a mixture of normal distributions, chosen by one number of the noise."""

import pytest
import torch
from torch import Tensor

from genxfer.models.config import VAEConfig
from genxfer.models.family import Family, ImageShape, build_family, interpolate, sample
from genxfer.models.latents import LatentMixture

MEANS = torch.tensor([[5.0, 0.0], [-5.0, 1.0]])
COVARIANCES = torch.tensor([[[1.0, 0.6], [0.6, 2.0]], [[0.1, 0.0], [0.0, 0.1]]])


@pytest.fixture
def mixture() -> LatentMixture:
    """Two normal distributions far from each other, of three that there is room for."""
    made = LatentMixture(2, 3)
    made.hold(torch.tensor([0.25, 0.75]), MEANS, COVARIANCES)
    return made


def noise(n: int) -> Tensor:
    return torch.randn(n, 3, generator=torch.Generator().manual_seed(0))


def test_as_it_is_made_it_is_the_prior() -> None:
    assert torch.equal(LatentMixture(2, 10)(noise(50)), noise(50)[:, :2])


def test_it_draws_from_what_it_holds(mixture: LatentMixture) -> None:
    latents = mixture(noise(40_000))
    first = latents[:, 0] > 0
    assert first.double().mean() == pytest.approx(0.25, abs=0.01)
    for part, mean, covariance in zip((latents[first], latents[~first]), MEANS, COVARIANCES, strict=True):
        assert torch.allclose(part.mean(dim=0), mean, atol=0.05)
        assert torch.allclose(part.T.cov(), covariance, atol=0.06)


def test_of_fewer_than_there_were_the_others_are_never_drawn(mixture: LatentMixture) -> None:
    mixture.hold(torch.ones(1), MEANS[:1], COVARIANCES[:1])
    assert (mixture(noise(10_000))[:, 0] > 0).all()


def test_neighbours_in_the_noise_are_neighbours_in_the_latents(mixture: LatentMixture) -> None:
    near = noise(200)
    near[:, :2] += 1e-4
    assert (mixture(near) - mixture(noise(200))).abs().max() < 1e-3


@pytest.fixture
def family() -> Family:
    made = build_family(VAEConfig(width=8, latent_dim=2, latent_components=3), ImageShape(1, 16))
    made.nets.eval()
    made.nets["latents"].hold(torch.tensor([0.5, 0.5]), MEANS, COVARIANCES)
    return made


def test_a_way_from_one_to_another_goes_through_the_latents_in_between(family: Family) -> None:
    """In the noise it would leap where another normal distribution is chosen."""
    steps = 60
    ways = interpolate(family, family.nets, rows=8, steps=steps, seed=1)
    ends = sample(family, family.nets, 16, seed=1)
    assert torch.equal(ways[:, 0], ends[::2])
    assert torch.equal(ways[:, -1], ends[1::2])
    leaps = (ways[:, 1:] - ways[:, :-1]).abs().flatten(2).amax(dim=2).amax(dim=1)
    whole = (ways[:, -1] - ways[:, 0]).abs().flatten(1).amax(dim=1)
    assert whole.max() > 0.05, "the ends must differ for this to mean anything"
    assert (leaps < 0.2 * whole.max()).all()
