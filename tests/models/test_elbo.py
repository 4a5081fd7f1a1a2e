"""The evidence lower bound against closed forms."""

import math

import pytest
import torch
from torch.distributions import Bernoulli, Normal, kl_divergence

from genxfer.models.config import MLPVAEConfig, VAEConfig
from genxfer.models.elbo import (
    bernoulli_log_likelihood,
    bits_per_dimension,
    elbo_terms,
    gaussian_log_likelihood,
    kl_to_standard_normal,
    kl_weight,
    reparameterise,
)
from genxfer.models.family import ImageShape, Step, build_family
from genxfer.noise import Noise


def test_the_kl_is_that_of_torchs_closed_form() -> None:
    mean, log_variance = torch.randn(2, 5, 7, generator=torch.Generator().manual_seed(0))
    expected = kl_divergence(Normal(mean, (0.5 * log_variance).exp()), Normal(0.0, 1.0)).sum(dim=1)
    assert torch.allclose(kl_to_standard_normal(mean, log_variance), expected, atol=1e-5)
    assert kl_to_standard_normal(torch.zeros(3, 4), torch.zeros(3, 4)).tolist() == [0, 0, 0]


def test_the_kl_is_that_of_many_draws() -> None:
    mean, log_variance = torch.tensor([[0.7]]), torch.tensor([[-1.2]])
    z = reparameterise(mean, log_variance, torch.randn(400_000, 1, generator=torch.Generator().manual_seed(0)))
    log_ratio = Normal(mean, (0.5 * log_variance).exp()).log_prob(z) - Normal(0.0, 1.0).log_prob(z)
    assert log_ratio.mean().item() == pytest.approx(kl_to_standard_normal(mean, log_variance).item(), abs=0.01)


def test_likelihoods_are_those_of_torchs_distributions() -> None:
    generator = torch.Generator().manual_seed(0)
    pixels, mean = torch.rand(2, 4, 3, 5, 5, generator=generator)
    logits = torch.randn(4, 3, 5, 5, generator=generator)
    gaussian = Normal(mean, 0.3).log_prob(pixels).sum(dim=(1, 2, 3))
    assert torch.allclose(gaussian_log_likelihood(pixels, mean, 0.3), gaussian, rtol=1e-5)
    bernoulli = Bernoulli(logits=logits, validate_args=False).log_prob(pixels).sum(dim=(1, 2, 3))
    assert torch.allclose(bernoulli_log_likelihood(pixels, logits), bernoulli, rtol=1e-5)


def test_bits_per_dimension_is_the_cost_of_the_eight_bit_value() -> None:
    """The probability of each of the 256 values, by integrating the density over its bin."""
    std, mean = 0.1, torch.tensor(0.5, dtype=torch.float64)
    for level in (64, 128, 170):
        pixel = torch.tensor(level / 255, dtype=torch.float64)
        bin_mass = Normal(mean, std).cdf(pixel + 0.5 / 255) - Normal(mean, std).cdf(pixel - 0.5 / 255)
        log_density = gaussian_log_likelihood(pixel.view(1, 1), mean.view(1, 1), std)[0]
        bits = bits_per_dimension(log_density, dimensions=1, density=True)
        assert bits.item() == pytest.approx(-math.log2(bin_mass.item()), abs=2e-3)


def test_a_flat_density_costs_the_raw_bits_of_a_pixel() -> None:
    assert bits_per_dimension(torch.tensor(0.0), dimensions=10, density=True).item() == pytest.approx(math.log2(255))


def test_a_fair_coin_costs_one_bit_per_binary_pixel() -> None:
    log_likelihood = bernoulli_log_likelihood(torch.ones(1, 1, 4, 4), torch.zeros(1, 1, 4, 4))[0]
    assert bits_per_dimension(log_likelihood, dimensions=16, density=False).item() == pytest.approx(1.0)


def test_the_elbo_of_the_curves_carries_the_whole_kl_whatever_its_weight() -> None:
    terms = elbo_terms(torch.tensor([-10.0, -20.0]), torch.tensor([3.0, 5.0]), weight=0.25, dimensions=4, density=False)
    assert terms["reconstruction"].item() == 15
    assert terms["kl"].item() == 1
    assert terms["~elbo_nats"].item() == -19
    assert terms["~bits_per_dim"].item() == pytest.approx(19 / 4 / math.log(2))


def test_the_kl_weight_rises_by_images_seen() -> None:
    assert [kl_weight(2.0, 10.0, seen) for seen in (0, 5_000, 10_000, 90_000)] == [0, 1, 2, 2]
    assert kl_weight(2.0, 0.0, 0) == 2


@pytest.mark.parametrize(
    ("config", "shape"),
    [
        (VAEConfig(width=8, likelihood="gaussian"), ImageShape(3, 16)),
        (VAEConfig(width=8, likelihood="bernoulli"), ImageShape(3, 16)),
        (MLPVAEConfig(width=8), ImageShape(1, 28)),
    ],
)
def test_the_kl_term_warms_up_in_the_loss(config: VAEConfig | MLPVAEConfig, shape: ImageShape) -> None:
    family = build_family(config, shape)
    real = torch.zeros(4, shape.channels, shape.resolution_px, shape.resolution_px)

    def terms(images_seen: int) -> dict[str, torch.Tensor]:
        return family.loss("main", real, Step(0, images_seen, Noise(torch.Generator().manual_seed(0)), lambda x: x))

    half = int(config.kl_warmup_kimg * 500)
    assert terms(0)["kl"].item() == 0
    assert terms(half)["kl"].item() == pytest.approx(terms(half)["~kl_nats"].item() * config.beta / 2)
    assert terms(10**9)["kl"].item() == pytest.approx(terms(half)["~kl_nats"].item() * config.beta)
