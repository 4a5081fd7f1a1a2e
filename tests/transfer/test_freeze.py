"""Freezing: counted as data, checked with a message, applied to nets."""

import pytest
import torch
from torch import nn

from genxfer.errors import ParameterError
from genxfer.models.config import FAMILIES, family_config
from genxfer.models.family import Family, ImageShape, build_family
from genxfer.transfer import freeze
from genxfer.transfer.config import Freeze, FreezeD, Full, Gradual, Lora, MethodConfig, Miner

GROUPS = {"generator": ("block_16px", "projection"), "discriminator": ("block_16px", "block_8px", "head")}


def small_family(name: str, **keys: object) -> Family:
    shape = ImageShape(1, 28) if name.startswith("mlp") else ImageShape(3, 16)
    return build_family(family_config({"family": name, "width": 8, **keys}), shape)


def test_groups_thaw_one_by_one_from_the_latent_side() -> None:
    method = Gradual(freeze={"discriminator": 2, "generator": 1}, thaw_every_kimg=1.5)
    assert method.fixed_groups(0) == method.fixed_groups(1499) == {"discriminator": 2, "generator": 1}
    assert method.fixed_groups(1500) == method.fixed_groups(2999) == {"discriminator": 1}
    assert method.fixed_groups(3000) == method.fixed_groups(10**9) == {}


def test_without_a_schedule_nothing_thaws() -> None:
    assert Freeze(freeze={"unet": 3}).fixed_groups(10**9) == {"unet": 3}
    assert Full().fixed_groups(0) == {}


def test_an_unknown_net_is_named_with_the_known_ones() -> None:
    with pytest.raises(ParameterError, match=r"freeze\.generater is 1.*generator, discriminator.*'generator'"):
        Freeze(freeze={"generater": 1}).check(GROUPS)


def test_too_many_groups_are_refused_with_what_is_allowed() -> None:
    with pytest.raises(ParameterError, match=r"freeze\.discriminator is 4; allowed: 0 to 3 .*block_8px, head"):
        Freeze(freeze={"discriminator": 4}).check(GROUPS)
    Freeze(freeze={"discriminator": 3}).check(GROUPS)
    with pytest.raises(ParameterError, match=r"layers is 4; allowed: 0 to 3 .*discriminator.*block_8px, head"):
        FreezeD(layers=4).check(GROUPS)


def test_freezing_everything_is_refused_and_so_is_freezing_nothing() -> None:
    with pytest.raises(ParameterError, match="nothing is left to move"):
        Freeze(freeze={"discriminator": 3, "generator": 2}).check(GROUPS)
    with pytest.raises(ParameterError, match=r"nothing stays fixed.*generator: 0 to 2.*finetune\.method=full"):
        Freeze().check(GROUPS)


@pytest.mark.parametrize("name", FAMILIES)
def test_the_counted_groups_are_held_and_the_others_move(name: str) -> None:
    family = small_family(name)
    for net, groups in family.layer_groups().items():
        freeze.apply(family, {net: 1})
        held = {id(parameter) for module in groups[0].modules for parameter in module.parameters()}
        assert held
        for parameter in family.nets.parameters():
            assert parameter.requires_grad == (id(parameter) not in held)
        assert not any(module.training for module in groups[0].modules)
        assert all(module.training for group in groups[1:] for module in group.modules)


def test_running_statistics_of_a_held_group_stand_still() -> None:
    family = small_family("dcgan", discriminator_normalization="batch")
    norms = [module for module in family.nets["discriminator"].modules() if isinstance(module, nn.BatchNorm2d)]
    freeze.apply(family, {"discriminator": 2})
    family.nets["discriminator"](torch.rand(4, 3, 16, 16))
    assert [int(norm.num_batches_tracked) for norm in norms] == [0] * len(norms)
    freeze.apply(family, {})  # thawed again
    family.nets["discriminator"](torch.rand(4, 3, 16, 16))
    assert [int(norm.num_batches_tracked) for norm in norms] == [1] * len(norms)


@pytest.mark.parametrize("name", FAMILIES)
def test_the_table_counts_every_parameter_once(name: str) -> None:
    family = small_family(name)
    counts = dict.fromkeys(family.layer_groups(), 1)
    freeze.apply(family, counts)
    rows = freeze.group_rows(family)
    moved, fixed = freeze.totals(rows)
    assert moved + fixed == sum(parameter.numel() for parameter in family.nets.parameters())
    assert [(row.net, row.group) for row in rows if not row.moving] == [
        (net, groups[0].name) for net, groups in family.layer_groups().items()
    ]
    text = freeze.summary(rows)
    assert text.endswith(f"{moved:,} parameters move, {fixed:,} stay fixed")
    assert text.count("fixed\n") == len(counts)


@pytest.mark.parametrize(
    ("method", "said"),
    [
        (Gradual(freeze={"discriminator": 2}, thaw_every_kimg=1.5), "One more group was thawed every 1.5 kimg"),
        (Miner(thaw_after_kimg=5), "Everything moved after 5 kimg"),
        (Gradual(freeze={"discriminator": 2}, thaw_every_kimg=6.5), ""),  # of a training on 6 kimg
        (Miner(thaw_after_kimg=6.5), ""),
        (Miner(), ""),
        (Lora(), "merged into these"),
        (Full(), ""),
    ],
)
def test_what_the_count_of_fixed_parameters_at_the_start_leaves_out_is_said(method: MethodConfig, said: str) -> None:
    assert said in method.said_of_moves(6000)
    assert bool(said) == bool(method.said_of_moves(6000))
