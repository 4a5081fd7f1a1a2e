"""L2-SP: the distance from the source, by hand, and what its weight does to a run."""

import csv
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from genxfer.models.config import FAMILIES
from genxfer.models.family import Family, Step
from genxfer.noise import Noise
from genxfer.transfer.config import L2SP, MethodConfig
from genxfer.transfer.distance import SourceDistance
from genxfer.transfer.method import build_method
from tests.training.train_small import small_family
from tests.transfer.conftest import adapted

NOT_PULLED = ("running", "num_batches", "discriminator", "latents.")
families = pytest.mark.parametrize("name", FAMILIES)


def moved_by(family: Family, step: float) -> None:
    with torch.no_grad():
        for parameter in family.nets.parameters():
            parameter.add_(step)


@families
def test_the_distance_is_that_of_what_moves_in_the_nets_asked_for(name: str) -> None:
    family = small_family(name)
    distance = SourceDistance(family)
    nets = list(family.nets)
    assert distance.squared(family, nets) == 0
    moved_by(family, 0.5)
    numel = sum(parameter.numel() for parameter in family.nets.parameters())
    assert distance.squared(family, nets).item() == pytest.approx(numel * 0.25, rel=1e-4)
    family.nets[nets[0]].requires_grad_(False)
    rest = sum(parameter.numel() for net in nets[1:] for parameter in family.nets[net].parameters())
    assert distance.squared(family, nets).item() == pytest.approx(rest * 0.25, rel=1e-4)
    assert distance.squared(family, nets[:1]) == 0


def test_importance_weighs_and_leaves_out_what_it_does_not_name() -> None:
    family = small_family("mlp_vae")
    bias = family.nets["decoder"].pixels[0].bias
    distance = SourceDistance(family, {"decoder.pixels.0.bias": torch.full_like(bias, 3.0)})
    distance.lay_out(family)
    moved_by(family, 0.5)
    squared = distance.squared(family, list(family.nets))
    assert squared.item() == pytest.approx(bias.numel() * 3 * 0.25)
    squared.backward()
    torch.testing.assert_close(bias.grad, torch.full_like(bias, 2 * 3 * 0.5))


def test_the_source_stays_where_it_was_in_whatever_layout() -> None:
    family = small_family("dcgan")
    distance = SourceDistance(family)
    family.nets.to(memory_format=torch.channels_last)
    distance.lay_out(family)
    for name, parameter in family.nets.named_parameters():
        assert torch.equal(distance.source[name], parameter)
        assert distance.source[name].stride() == parameter.stride()
        assert distance.source[name].data_ptr() != parameter.data_ptr()


@families
def test_the_weight_keeps_a_run_near_the_source(name: str, train_from_source: Callable[..., Path]) -> None:
    distances = [travelled(train_from_source(name, L2SP(strength=strength))) for strength in (0.0, 400.0)]
    assert distances[1] < 0.7 * distances[0]


def travelled(folder: Path) -> float:
    """Return the squared distance from the source of the published weights, without a discriminator's."""
    source, target = (load_file(folder / run / "out/snapshot.safetensors") for run in ("source", "target"))
    pairs = [(source[name], target[name]) for name in source if not any(part in name for part in NOT_PULLED)]
    return sum((one - other).square().sum().item() for one, other in pairs)


def test_what_the_source_model_does_not_have_is_free() -> None:
    """Its random start is nothing that is worth staying near to."""
    family = small_family("dcgan")
    fresh = [next(name for name, _ in family.nets.named_parameters() if name.startswith("generator"))]
    distance = SourceDistance(family, fresh=fresh)
    distance.lay_out(family)
    moved_by(family, 0.5)
    kept = {name: weight for name, weight in family.nets.named_parameters() if name not in fresh}
    numel = sum(weight.numel() for name, weight in kept.items() if name.startswith("generator"))
    assert distance.squared(family, ["generator"]).item() == pytest.approx(numel * 0.25, rel=1e-4)


@families
def test_the_term_has_a_curve(name: str, train_from_source: Callable[..., Path]) -> None:
    with (train_from_source(name, L2SP()) / "target/out/curves.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    assert all(float(row["l2_sp"]) > 0 for row in rows)


@pytest.mark.parametrize("name", ["dcgan", "mlp_gan"])
def test_a_discriminator_is_free(name: str) -> None:
    family = small_family(name)
    method = build_method(L2SP(strength=2.0))
    method.prepare(family, seed=0, n_images=10)
    method.hold(family, {})
    moved_by(family, 0.5)
    real = torch.zeros(2, family.shape.channels, family.shape.resolution_px, family.shape.resolution_px)
    step = Step(0, 0, Noise(torch.Generator()))
    assert method.terms(family, "discriminator", real, step) == {}
    numel = sum(parameter.numel() for parameter in family.nets["generator"].parameters())
    assert method.terms(family, "generator", real, step)["l2_sp"].item() == pytest.approx(numel * 0.25, rel=1e-4)


@pytest.mark.parametrize("config", adapted(strength=0.0), ids=lambda config: config.method)
@pytest.mark.parametrize("name", ["mlp_gan", "vae"])
def test_without_weight_a_run_is_one_of_method_full_to_the_same_bits(
    name: str, config: MethodConfig, train_from_source: Callable[..., Path]
) -> None:
    full = (train_from_source(name, None) / "target/out/snapshot.safetensors").read_bytes()
    assert (train_from_source(name, config) / "target/out/snapshot.safetensors").read_bytes() == full
