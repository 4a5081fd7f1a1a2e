"""Cross-domain correspondence: likeness and its divergence by hand, anchors, patches, and who may move what."""

from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file
from torch import Tensor

from genxfer.models.family import Augment, Family, Step, as_they_are
from genxfer.noise import Noise
from genxfer.transfer import config
from genxfer.transfer.cdc import CDC, LATENTS, divergence, layers, log_likeness
from genxfer.transfer.method import build_method
from genxfer.transfer.patches import patch_features, patch_head
from tests.training.train_small import small_family

FAMILIES = ["dcgan", "mlp_gan", "vae", "mlp_vae"]
families = pytest.mark.parametrize("name", FAMILIES)
BATCH = 6


def prepared(family: Family, strength: float = 1000.0, n_images: int = 10) -> CDC:
    method = build_method(config.CDC(strength=strength))
    assert isinstance(method, CDC)
    method.prepare(family, seed=1, n_images=n_images)
    method.hold(family, {})
    return method


def step_of(rows: slice = slice(0, BATCH), augment: Augment = as_they_are) -> Step:
    return Step(0, 0, Noise(torch.Generator().manual_seed(5), BATCH, rows), augment)


def reals(family: Family, n: int = BATCH) -> Tensor:
    side_px = family.shape.resolution_px
    return torch.rand(n, family.shape.channels, side_px, side_px, generator=torch.Generator().manual_seed(2)) * 2 - 1


def generating_phase(family: Family) -> str:
    return next(phase.name for phase in family.phases if family.sampling_nets[0] in phase.nets)


def test_likeness_is_a_softmax_over_the_others() -> None:
    features = torch.tensor([[2.0, 0.0], [0.0, 3.0], [1.0, 1.0]])
    likeness = log_likeness(features).exp()
    torch.testing.assert_close(likeness[0], torch.tensor([0.0, 0.5**0.5]).softmax(0))
    torch.testing.assert_close(likeness[2], torch.tensor([0.5, 0.5]))


def test_the_divergence_is_that_of_the_first_from_the_second() -> None:
    p, q = torch.tensor([[0.9, 0.1], [0.5, 0.5]]), torch.tensor([[0.5, 0.5], [0.2, 0.8]])
    by_hand = (p * (p / q).log()).sum() / 2
    torch.testing.assert_close(divergence(p.log(), q.log()), by_hand)
    assert divergence(q.log(), p.log()) != pytest.approx(by_hand.item(), rel=1e-2)


@families
def test_the_distances_differ_from_the_source_only_once_the_net_has_moved(name: str) -> None:
    family = small_family(name)
    method = prepared(family)
    phase, net = generating_phase(family), family.nets[family.sampling_nets[0]]
    before = {key: tensor.clone() for key, tensor in net.named_buffers()}
    assert method._divergence(family, reals(family), step_of()).item() == pytest.approx(0, abs=1e-6)
    assert all(torch.equal(tensor, before[key]) for key, tensor in net.named_buffers())
    assert net.training
    torch.manual_seed(0)
    with torch.no_grad():
        for parameter in net.parameters():
            parameter += 0.3 * torch.randn_like(parameter)
    term = method.terms(family, phase, reals(family), step_of())["cdc_distance"]
    assert term.item() > 1e-2
    if method.head is None:  # nothing else was drawn before
        noise = step_of().noise.common((LATENTS, *family.noise(1, torch.Generator()).shape[1:]), reals(family))
        z, source = family.latent(family.nets, noise), method.source[family.sampling_nets[0]]
        likeness = [[log_likeness(layer) for layer in layers(one.eval(), z)] for one in (net, source)]
        expected = sum(divergence(adapted, source) for adapted, source in zip(*likeness, strict=True)) / len(net)
        assert term.item() == pytest.approx(1000 * expected.item(), rel=1e-4)
    term.backward()
    assert all(parameter.grad is not None and parameter.grad.any() for parameter in net[0].parameters())
    assert all(parameter.grad is None for parameter in method.source.parameters())


@families
def test_every_part_of_a_batch_compares_the_same_latents(name: str) -> None:
    family = small_family(name)
    method = prepared(family)
    with torch.no_grad():
        for parameter in family.nets.parameters():
            parameter *= 1.5
    family.nets.eval()  # the patches' images would move running statistics by statistics of a part's own
    phase = generating_phase(family)
    whole, part = (
        method.terms(family, phase, reals(family, len(range(BATCH)[rows])), step_of(rows))["cdc_distance"]
        for rows in (slice(0, BATCH), slice(4, BATCH))
    )
    assert whole == part


@pytest.mark.parametrize("n_images", [3, 25])
def test_latents_stay_next_to_the_anchors_of_which_each_image_has_one(n_images: int) -> None:
    method = prepared(small_family("dcgan"), n_images=n_images)
    noise = Noise(torch.Generator().manual_seed(5), 200, slice(0, 200))
    latents = method.latent(torch.randn(200, 4, generator=torch.Generator().manual_seed(1)), noise)
    distances = torch.cdist(latents, method.anchors)
    assert distances.min(dim=1).values.max() < 0.05 * 4 * 2
    assert len(distances.argmin(dim=1).unique()) == n_images
    part = Noise(torch.Generator().manual_seed(5), 200, slice(50, 60))
    z = torch.randn(200, 4, generator=torch.Generator().manual_seed(1))
    assert torch.equal(method.latent(z[50:60], part), latents[50:60])


@pytest.mark.parametrize("name", ["mlp_gan", "vae", "mlp_vae"])
def test_without_patches_latents_and_objective_stay_the_familys_own(name: str) -> None:
    family = small_family(name)
    method = prepared(family)
    z = torch.randn(BATCH, 4)
    assert method.latent(z, step_of().noise) is z
    assert not method.nets
    for phase in family.phases:
        terms = method.terms(family, phase.name, reals(family), step_of())
        assert set(terms) == ({"cdc_distance"} if phase.name == generating_phase(family) else set())


def test_a_patch_sees_less_than_half_the_side_and_no_more() -> None:
    family = small_family("dcgan", discriminator_normalization="none")
    head = patch_head(family)
    assert head is not None
    torch.nn.init.ones_(head.weight)
    images = reals(family).requires_grad_()
    logits = head(patch_features(family, images))
    assert logits.shape == (BATCH, 1, 8, 8)
    logits[0, 0, 4, 4].backward()
    assert images.grad is not None
    seen = images.grad[0].abs().sum(dim=0) > 0
    assert 0 < seen.any(dim=0).sum() <= 16 * 3 / 8
    assert not images.grad[1:].any()


def test_the_head_learns_from_the_discriminators_phase_alone() -> None:
    family = small_family("dcgan")
    method = prepared(family)
    head = method.head
    assert head is not None
    assert dict(method.nets) == {"discriminator": head}
    torch.nn.init.ones_(head.weight)
    generator, discriminator = family.nets["generator"], family.nets["discriminator"]

    method.terms(family, "generator", reals(family), step_of())["patch_generator"].backward()
    assert all(parameter.grad is None for parameter in head.parameters())
    assert all(parameter.grad is not None for parameter in generator.parameters())
    family.nets.zero_grad()

    terms = method.terms(family, "discriminator", reals(family), step_of())
    (terms["patch_real"] + terms["patch_fake"]).backward()
    assert all(parameter.grad is not None and parameter.grad.any() for parameter in head.parameters())
    assert all(parameter.grad is None for parameter in generator.parameters())
    assert discriminator[0][0].weight.grad.any()
    assert discriminator.head[1].weight.grad is None


def test_patches_of_real_and_fake_are_augmented_alike() -> None:
    family = small_family("dcgan")
    method, seen = prepared(family), []

    def augment(images: Tensor, *, sets: int = 1) -> Tensor:
        seen.append(images)
        return images * 0

    real = reals(family)
    terms = method.terms(family, "discriminator", real, step_of(augment=augment))
    assert seen[0] is real
    assert not torch.equal(seen[1], real)
    assert terms["patch_real"] == terms["patch_fake"]  # of blank images, by a head that is undecided
    method.terms(family, "generator", real, step_of(augment=augment))
    assert len(seen) == 3


@families
def test_the_weight_keeps_the_latents_correspondence(name: str, train_from_source: Callable[..., Path]) -> None:
    values = []
    for strength in (0.0, 1e4):
        folder = train_from_source(name, config.CDC(strength=strength))
        family = small_family(name)
        family.nets.load_state_dict(load_file(folder / "source/out/snapshot.safetensors"))
        method = prepared(family)
        family.nets.load_state_dict(load_file(folder / "target/out/snapshot.safetensors"))
        values.append(method._divergence(family, reals(family), step_of()).item())
    assert values[1] < 0.7 * values[0]


def test_what_is_published_has_the_familys_weights_alone(train_from_source: Callable[..., Path]) -> None:
    folder = train_from_source("dcgan", config.CDC())
    source, target = (load_file(folder / run / "out/snapshot.safetensors") for run in ("source", "target"))
    assert source.keys() == target.keys()


@pytest.mark.parametrize("name", ["vae", "mlp_vae"])
def test_what_is_compared_is_drawn_from_where_the_source_model_draws(name: str) -> None:
    """Whatever the adapted model's own latents have become."""
    family = small_family(name)
    mixture = family.nets["latents"]
    mixture.hold(torch.ones(1), torch.full((1, 4), 5.0), 0.01 * torch.eye(4)[None])
    method, seen = prepared(family), []
    mixture.hold(torch.ones(1), torch.zeros(1, 4), torch.eye(4)[None])
    family.nets["decoder"][0].register_forward_pre_hook(lambda _, inputs: seen.append(inputs[0]))
    method._divergence(family, reals(family), step_of())
    assert (torch.cat(seen) - 5).abs().max() < 0.5
