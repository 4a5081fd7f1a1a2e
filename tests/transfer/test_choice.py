"""What `auto` chooses: a method that the family can be adapted by, for every number of images, with a reason."""

import pytest

from genxfer.models.config import FAMILIES, family_config
from genxfer.transfer.choice import choose
from genxfer.transfer.config import METHODS


@pytest.mark.parametrize("n_train", [1, 10, 30, 31, 100, 1000, 10**6])
@pytest.mark.parametrize("family", FAMILIES)
def test_the_chosen_method_is_for_the_family_and_comes_with_a_reason(family: str, n_train: int) -> None:
    choice = choose(family, n_train)
    config = family_config({"family": family})
    resolution_px = 28 if family.startswith("mlp") else 32
    assert METHODS[choice.method].unfit(config, config.layer_groups(resolution_px)) is None
    assert choice.why.startswith(f"{choice.method} for family {family} and {n_train:,} target images: ")


def test_few_images_get_another_method_than_many() -> None:
    assert choose("dcgan", 10).method == "gradual"
    assert choose("dcgan", 100).method == "full"


def test_a_vae_is_thawed_gradually_whatever_the_number_of_images() -> None:
    assert {choose("vae", n_train).method for n_train in (10, 100, 1000)} == {"gradual"}
