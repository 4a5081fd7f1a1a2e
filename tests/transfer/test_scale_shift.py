"""Scale and shift alone: which tensors move, in which nets, and what goes on being tracked."""

import re

import pytest
from torch import nn

from genxfer.models.config import FAMILIES
from genxfer.transfer.config import ScaleShift, check_method
from genxfer.transfer.method import build_method
from tests.transfer.test_freeze import small_family

# The only names that may move in a sampling net: of the normalisation layers, and of the flow's time-dependent ones.
MOVING = {
    "dcgan": r"generator\.(projection\.2|block_(8|4)px\.1)\.(weight|bias)",
    "vae": r"decoder\.(projection\.2|block_(8|4)px\.1)\.(weight|bias)",
    "flow": r"unet\..*(norm(_1|_2)?|(up|down|block)\.time)\.(weight|bias)",
}


@pytest.mark.parametrize("name", MOVING)
def test_scales_and_shifts_of_the_sampling_nets_move_and_the_other_nets_wholly(name: str) -> None:
    family = small_family(name)
    method = build_method(ScaleShift())
    method.prepare(family, seed=0, n_images=10)
    method.hold(family, {})
    moving = {key for key, parameter in family.nets.named_parameters() if parameter.requires_grad}
    of_samplers = {key for key in moving if key.startswith(family.sampling_nets)}
    assert of_samplers == {key for key, _ in family.nets.named_parameters() if re.fullmatch(MOVING[name], key)}
    assert moving - of_samplers == {
        key for key, _ in family.nets.named_parameters() if not key.startswith(family.sampling_nets)
    }
    assert all(module.training for module in family.nets.modules())


@pytest.mark.parametrize("name", FAMILIES)
def test_it_is_offered_to_the_families_that_have_normalisation_layers(name: str) -> None:
    family = small_family(name)
    norms = nn.BatchNorm2d | nn.GroupNorm
    has_norms = any(isinstance(part, norms) for net in family.sampling_nets for part in family.nets[net].modules())
    unfit = ScaleShift.unfit(family.config, {})
    assert has_norms == (unfit is None)
    if has_norms:
        check_method(ScaleShift(), family.config, family.shape.resolution_px)
