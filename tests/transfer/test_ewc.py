"""Elastic weight consolidation: what the information is, and that it says what the source model relies on."""

from collections.abc import Mapping

import pytest
import torch
from torch import Tensor

from genxfer.errors import TrainingError
from genxfer.models.config import FAMILIES
from genxfer.models.family import Family, Step, sample
from genxfer.noise import Noise
from genxfer.transfer.config import EWC
from genxfer.transfer.fisher import LONG_PAST_WARM_UP, fisher_information
from genxfer.transfer.method import build_method
from tests.training.train_small import small_family

families = pytest.mark.parametrize("name", FAMILIES)
MOVED_BY_THE_SAMPLING_PHASE = {
    "dcgan": {"generator"},
    "mlp_gan": {"generator"},
    "vae": {"encoder", "decoder"},
    "mlp_vae": {"encoder", "decoder"},
    "flow": {"unet"},
}


@families
def test_the_information_is_of_mean_1_over_what_moves_with_the_sampling_nets(name: str) -> None:
    family = small_family(name)
    information = fisher_information(family, seed=3, samples=4)
    nets = MOVED_BY_THE_SAMPLING_PHASE[name]
    assert {key: value.shape for key, value in information.items()} == {
        key: parameter.shape for key, parameter in family.nets.named_parameters() if key.split(".")[0] in nets
    }
    values = torch.cat([value.flatten() for value in information.values()])
    assert values.min() >= 0
    assert values.mean().item() == pytest.approx(1, rel=1e-4)


@torch.no_grad()
def dead(family: Family) -> Family:
    """Return the family with a discriminator that says the same of every image."""
    for parameter in family.nets["discriminator"].parameters():
        parameter.zero_()
    return family


@pytest.mark.parametrize("name", ["dcgan", "mlp_gan"])
def test_a_source_model_that_relies_on_nothing_is_refused(name: str) -> None:
    with pytest.raises(TrainingError, match=r"have a mean of 0\. Set finetune\.method=l2_sp"):
        fisher_information(dead(small_family(name)), seed=3, samples=4)


@families
def test_the_information_is_the_same_again_and_leaves_no_trace(name: str) -> None:
    family = small_family(name)
    before = {key: tensor.clone() for key, tensor in family.nets.state_dict().items()}
    first, again, other = (fisher_information(family, seed, samples=4) for seed in (3, 3, 4))
    assert all(torch.equal(first[key], again[key]) for key in first)
    assert not all(torch.equal(first[key], other[key]) for key in first)
    assert all(torch.equal(tensor, before[key]) for key, tensor in family.nets.state_dict().items())
    assert all(parameter.grad is None for parameter in family.nets.parameters())


@families
def test_the_loss_of_the_source_minds_where_the_information_is(name: str) -> None:
    family = small_family(name)
    information = fisher_information(family, seed=3, samples=16)
    values = torch.cat([value.flatten() for value in information.values()])
    relied_on = {key: value > values.median() for key, value in information.items()}
    at_source = loss_moved(family, {})
    minded = at_source - loss_moved(family, relied_on)
    hardly = at_source - loss_moved(family, {key: ~chosen for key, chosen in relied_on.items()})
    assert minded > 1.5 * abs(hardly)


def loss_moved(family: Family, chosen: Mapping[str, Tensor]) -> float:
    """Return the mean loss over 16 images once each chosen weight has moved by 0.01 against its gradient's sign."""
    phase = next(phase.name for phase in family.phases if set(phase.nets) & set(family.sampling_nets))
    data = sample(family, family.nets.eval(), 16, seed=8)

    def loss() -> Tensor:
        noise = Noise(torch.Generator().manual_seed(0))
        step = Step(1, LONG_PAST_WARM_UP, noise)
        return sum(value for term, value in family.loss(phase, data, step).items() if not term.startswith("~"))

    weights = {key: parameter for key, parameter in family.nets.named_parameters() if key in chosen}
    before = {key: weight.detach().clone() for key, weight in weights.items()}
    if weights:
        gradients = torch.autograd.grad(loss(), list(weights.values()))
        with torch.no_grad():
            for (key, weight), gradient in zip(weights.items(), gradients, strict=True):
                weight -= 0.01 * gradient.sign() * chosen[key]
    with torch.no_grad():
        value = loss().item()
        for key, weight in weights.items():
            weight.copy_(before[key])
    return value


@families
def test_the_term_weighs_the_distance_by_the_information(name: str) -> None:
    family = small_family(name)
    method = build_method(EWC(strength=5.0))
    method.prepare(family, seed=3, n_images=10)
    method.hold(family, {})
    information = fisher_information(small_family(name), seed=3)
    key = max(information, key=lambda key: information[key].mean())
    weight = dict(family.nets.named_parameters())[key]
    with torch.no_grad():
        weight += 0.1
    real = torch.zeros(2, family.shape.channels, family.shape.resolution_px, family.shape.resolution_px)
    step = Step(0, 0, Noise(torch.Generator()))
    for phase in family.phases:
        terms = method.terms(family, phase.name, real, step)
        if set(phase.nets) & set(family.sampling_nets):
            assert terms["ewc"].item() == pytest.approx(5 / 2 * information[key].sum().item() * 0.01, rel=1e-3)
        else:
            assert not terms
