"""The discriminator's gradient penalty and normalisations."""

import pytest
import torch
from torch import Tensor, nn

from genxfer.models.config import DCGANConfig
from genxfer.models.dcgan import DCGAN, groups_of, squared_gradient_norm
from genxfer.models.family import Augment, ImageShape, Step, as_they_are, build_family
from genxfer.noise import Noise

NORMALIZATIONS = ("none", "batch", "instance", "group")


def family(**keys: object) -> DCGAN:
    built = build_family(DCGANConfig(width=8, **keys), ImageShape(3, 16))  # type: ignore[arg-type]
    assert isinstance(built, DCGAN)
    return built


def terms_at(gan: DCGAN, index: int, augment: Augment = as_they_are) -> dict[str, Tensor]:
    real = torch.rand(6, 3, 16, 16, generator=torch.Generator().manual_seed(1)) * 2 - 1
    return gan.loss("discriminator", real, Step(index, 0, Noise(torch.Generator().manual_seed(2)), augment))


def test_the_penalty_of_a_known_function_is_its_squared_gradient() -> None:
    class HalfSquare(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            return 0.5 * x.square().sum(dim=(1, 2, 3)).unsqueeze(1)  # its gradient is x itself

    x = torch.randn(4, 3, 8, 8, generator=torch.Generator().manual_seed(0))
    assert torch.allclose(squared_gradient_norm(HalfSquare(), x), x.square().sum(dim=(1, 2, 3)))


def test_the_penalty_agrees_with_gradients_taken_one_image_at_a_time() -> None:
    gan = family()
    discriminator = gan.nets["discriminator"]
    real = torch.randn(5, 3, 16, 16, generator=torch.Generator().manual_seed(3))
    by_hand = []
    for image in real:
        image = image.unsqueeze(0).requires_grad_()
        discriminator(image).sum().backward()
        assert image.grad is not None
        by_hand.append(image.grad.square().sum())
    assert torch.allclose(squared_gradient_norm(discriminator, real), torch.stack(by_hand), rtol=1e-4)


def test_the_penalty_is_taken_now_and_then_and_weighs_as_much_more() -> None:
    gan = family(r1_gamma=3.0, r1_every=4)
    due, again = terms_at(gan, index=0), terms_at(gan, index=8)
    assert due["r1"].item() == pytest.approx(3.0 / 2 * 4 * due["~r1_penalty"].item())
    assert due["r1"].item() == pytest.approx(again["r1"].item())
    assert all("r1" not in terms_at(gan, index) for index in (1, 2, 3, 5))


def test_no_gamma_means_no_penalty() -> None:
    assert "r1" not in terms_at(family(r1_gamma=0.0), index=0)


def test_the_penalty_can_be_minimised() -> None:
    gan = family(r1_gamma=1.0)
    terms_at(gan, index=0)["r1"].backward()
    convolutions = [m for m in gan.nets["discriminator"].modules() if isinstance(m, nn.Conv2d | nn.Linear)]
    assert all(m.weight.grad is not None and m.weight.grad.abs().sum() > 0 for m in convolutions)


def test_the_gradient_of_the_penalty_survives_bf16() -> None:
    gan = family(r1_gamma=1.0)
    full = penalty_gradient(gan)
    with torch.autocast("cpu", torch.bfloat16):
        mixed = penalty_gradient(gan)
    assert 0 < (mixed - full).norm() < 0.06 * full.norm()


def penalty_gradient(gan: DCGAN) -> Tensor:
    gan.nets.zero_grad()
    terms_at(gan, index=0)["r1"].backward()
    moved = [p.grad.flatten() for p in gan.nets["discriminator"].parameters() if p.grad is not None]
    return torch.cat(moved)


@pytest.mark.parametrize("normalization", NORMALIZATIONS)
def test_real_and_fake_do_not_meet_in_the_discriminator(normalization: str) -> None:
    gan = family(discriminator_normalization=normalization)
    one, other = (terms_at(gan, index=1, augment=fakes_to_the_power(power)) for power in (1, 2))
    assert one["~logits_real"].item() == pytest.approx(other["~logits_real"].item(), abs=1e-6)
    assert one["~logits_fake"].item() != pytest.approx(other["~logits_fake"].item(), abs=1e-3)


def fakes_to_the_power(power: int) -> Augment:
    """Return an augmentation that leaves the first set of images it is given, the real ones, and changes the second."""

    def augment(images: Tensor, *, sets: int = 1) -> Tensor:
        real, fake = images.chunk(sets)
        return torch.cat([real, fake**power])

    return augment


def test_real_and_fake_are_augmented_alike() -> None:
    seen: list[Tensor] = []

    def spy(images: Tensor, *, sets: int = 1) -> Tensor:
        seen.extend(images.chunk(sets))
        return images

    gan = family()
    terms_at(gan, index=1, augment=spy)
    real, fake = seen
    assert real.shape == fake.shape
    assert not torch.equal(real, fake)
    gan.loss("generator", torch.zeros(6, 3, 16, 16), Step(1, 0, Noise(torch.Generator().manual_seed(2)), spy))
    assert len(seen) == 3
    assert seen[2].requires_grad, "the generator learns through the augmentation"


def test_the_discriminators_turn_leaves_the_generator_without_gradient() -> None:
    gan = family()
    torch.stack([v for k, v in terms_at(gan, index=0).items() if not k.startswith("~")]).sum().backward()
    assert all(p.grad is None for p in gan.nets["generator"].parameters())


@pytest.mark.parametrize("normalization", NORMALIZATIONS)
def test_only_batchnorm_mixes_samples(normalization: str) -> None:
    discriminator = family(discriminator_normalization=normalization).nets["discriminator"]
    real = torch.randn(4, 3, 16, 16, generator=torch.Generator().manual_seed(0)).requires_grad_()
    discriminator(real)[0].sum().backward()
    assert real.grad is not None
    touched = real.grad.flatten(1).abs().sum(dim=1) > 1e-6
    assert touched[0]
    assert touched[1:].any().item() == (normalization == "batch")


@pytest.mark.parametrize("normalization", NORMALIZATIONS)
def test_signals_keep_their_size_at_the_start(normalization: str) -> None:
    """Neither dead nor saturated at the first step, whatever the normalisation."""
    gan = build_family(DCGANConfig(discriminator_normalization=normalization), ImageShape(1, 32))
    logits = gan.nets["discriminator"](torch.randn(64, 1, 32, 32, generator=torch.Generator().manual_seed(0)))
    images = gan.nets["generator"](torch.randn(64, 64, generator=torch.Generator().manual_seed(0)))
    assert 0.1 < logits.std() < 10
    assert 0.2 < images.std() < 0.95


@pytest.mark.parametrize("width", [4, 13, 50, 100])
def test_any_width_has_groups_to_normalise_in(width: int) -> None:
    gan = build_family(DCGANConfig(width=width), ImageShape(1, 32))
    assert gan.nets["discriminator"](torch.zeros(2, 1, 32, 32)).shape == (2, 1)


def test_groups_are_of_sixteen_channels_or_as_few_more_as_divide_them() -> None:
    assert [groups_of(channels) for channels in (8, 16, 64, 256)] == [1, 1, 4, 16]
    assert [groups_of(channels) for channels in (100, 200, 254)] == [5, 10, 2]
