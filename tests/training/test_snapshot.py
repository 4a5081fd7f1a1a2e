"""Snapshots: what is published, and what happens when it does not fit."""

import json
from pathlib import Path
from types import ModuleType

import pytest
import torch
from safetensors.torch import load_file, save_file

from genxfer.errors import TrainingError
from genxfer.models.config import FAMILIES
from genxfer.models.family import Family, sample
from genxfer.training.snapshot import Snapshot, family_of, load_into, load_snapshot, save_snapshot


def saved(folder: Path, family: Family) -> tuple[Path, Path]:
    save_snapshot(folder, family, images_seen=1500, parent=None)
    return folder / "snapshot.safetensors", folder / "snapshot.json"


@pytest.mark.parametrize("name", FAMILIES)
def test_a_snapshot_is_enough_to_draw_the_same_samples(name: str, small: ModuleType, tmp_path: Path) -> None:
    family = small.small_family(name, seed=3)
    again = family_of(load_snapshot(*saved(tmp_path, family)))
    assert not any(net.training for net in again.nets.values())
    expected = sample(family, family.nets.eval(), 3, seed=1)
    assert torch.equal(sample(again, again.nets, 3, seed=1), expected)


def test_equal_weights_give_equal_files(small: ModuleType, tmp_path: Path) -> None:
    one = saved(tmp_path / "one", small.small_family("dcgan", seed=3))
    two = saved(tmp_path / "two", small.small_family("dcgan", seed=3))
    assert [path.read_bytes() for path in one] == [path.read_bytes() for path in two]


def test_the_description_says_what_the_weights_are(small: ModuleType, tmp_path: Path) -> None:
    _, description_file = saved(tmp_path, small.small_family("dcgan"))
    description = json.loads(description_file.read_text())
    assert description["model"]["family"] == description["family"] == "dcgan"
    assert (description["channels"], description["resolution_px"]) == (3, 16)
    assert (description["images_seen"], description["kimg"]) == (1500, 1.5)
    assert description["sampling_nets"] == ["generator"]
    assert description["parent"] is None


def test_weights_that_do_not_fit_are_listed_by_name(small: ModuleType, tmp_path: Path) -> None:
    snapshot = load_snapshot(*saved(tmp_path, small.small_family("dcgan")))
    weights = dict(snapshot.weights)
    weights["generator.stray"] = weights.pop("generator.projection.0.weight")
    weights["discriminator.head.1.bias"] = torch.zeros(7)
    family = small.small_family("dcgan", seed=1)
    before = {name: tensor.clone() for name, tensor in family.nets.state_dict().items()}
    with pytest.raises(TrainingError) as error:
        load_into(family, Snapshot(weights, snapshot.description, snapshot.digest))
    message = str(error.value)
    assert "1 missing in the snapshot: generator.projection.0.weight" in message
    assert "1 unknown to the model: generator.stray" in message
    assert "1 of another shape: discriminator.head.1.bias (snapshot [7], model [1])" in message
    assert all(torch.equal(before[name], tensor) for name, tensor in family.nets.state_dict().items())


def test_weights_of_another_family_are_refused_in_a_readable_message(small: ModuleType, tmp_path: Path) -> None:
    snapshot = load_snapshot(*saved(tmp_path, small.small_family("dcgan")))
    with pytest.raises(TrainingError, match=r"holds 'dcgan' for 3 x 16 px images, this is 'vae'") as error:
        load_into(small.small_family("vae"), snapshot)
    assert "more" in str(error.value)
    assert len(str(error.value)) < 2000


def test_a_damaged_or_foreign_snapshot_is_refused(small: ModuleType, tmp_path: Path) -> None:
    weights_file, description_file = saved(tmp_path, small.small_family("mlp_vae"))
    description = json.loads(description_file.read_text())
    description_file.write_text(json.dumps(description | {"schema": 99}))
    with pytest.raises(TrainingError, match="schema 99"):
        load_snapshot(weights_file, description_file)
    description_file.write_text(json.dumps(description | {"channels": "3", "model": None}))
    with pytest.raises(TrainingError, match="of another type: model, channels"):
        load_snapshot(weights_file, description_file)
    description_file.write_text("[1, 2]")
    with pytest.raises(TrainingError, match="holds a list, not a snapshot's description"):
        load_snapshot(weights_file, description_file)
    weights_file.write_bytes(weights_file.read_bytes()[:-1])
    with pytest.raises(TrainingError, match="cannot be read as a snapshot"):
        load_snapshot(weights_file, description_file)


def test_the_files_may_have_any_name(small: ModuleType, tmp_path: Path) -> None:
    weights_file, description_file = saved(tmp_path, small.small_family("mlp_vae"))
    save_file(load_file(weights_file), tmp_path / "0a1b")
    assert load_snapshot(tmp_path / "0a1b", description_file).images_seen == 1500
