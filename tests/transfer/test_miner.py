"""The miner: where it stands in the generator, what moves when, and that what is published draws by itself."""

from pathlib import Path

import pytest
import torch
from pydantic import ValidationError

from genxfer.config import FinetuneSection
from genxfer.errors import TrainingError
from genxfer.models.config import DCGANConfig, family_config
from genxfer.models.family import Family, build_family, sample
from genxfer.registry.sampler import SnapshotSampler
from genxfer.training.config import ComputeConfig
from genxfer.training.engine import train
from genxfer.training.snapshot import Snapshot, family_of, load_into, load_snapshot, save_snapshot
from genxfer.training.start import start_from
from genxfer.training.tracker import NullTracker
from genxfer.transfer import freeze
from genxfer.transfer.config import Miner
from genxfer.transfer.load import take_over
from tests.training.train_small import packed_images, small_config, small_family

adversarial = pytest.mark.parametrize("name", ["dcgan", "mlp_gan"])
METHOD = Miner(miner_width=8)


def with_miner(name: str, seed: int = 0) -> Family:
    plain = small_family(name)
    return build_family(METHOD.family_config(plain.config), plain.shape, seed)


def read(folder: Path) -> Snapshot:
    return load_snapshot(folder / "snapshot.safetensors", folder / "snapshot.json")


def source_model(name: str, folder: Path) -> Snapshot:
    save_snapshot(folder / "source", small_family(name, seed=3), images_seen=0, parent=None)
    return read(folder / "source")


def trained(family: Family, init: Snapshot, folder: Path, method: Miner) -> Snapshot:
    folder.mkdir(exist_ok=True)
    train(
        family,
        packed_images(folder, family),
        small_config(kimg=0.04),
        work_dir=folder / "work",
        out_dir=folder / "out",
        tracker=NullTracker(),
        method=method,
        init=init,
        compute=ComputeConfig(threads=1),
    )
    return read(folder / "out")


@adversarial
def test_the_miner_is_the_group_next_to_the_latent_and_at_first_the_identity(name: str, tmp_path: Path) -> None:
    family, init = with_miner(name), source_model(name, tmp_path)
    groups = family.layer_groups()["generator"]
    assert groups[-1].name == "miner"
    assert [group.name for group in groups[:-1]] == [
        group.name for group in small_family(name).layer_groups()["generator"]
    ]
    assert take_over(family, init.weights, init.description, METHOD.new_groups).exact
    source = family_of(init)
    drawn, expected = (sample(f, f.nets.eval(), 5, seed=1) for f in (family, source))
    assert torch.equal(drawn, expected)


@adversarial
def test_the_generator_stays_while_the_miner_and_the_discriminator_move(name: str) -> None:
    family = with_miner(name)
    freeze.apply(family, METHOD.fixed_groups(10**9))
    moving = {key for key, parameter in family.nets.named_parameters() if parameter.requires_grad}
    expected = ("generator.miner.", "discriminator.")
    assert moving == {key for key, _ in family.nets.named_parameters() if key.startswith(expected)}


def test_everything_moves_after_mining_if_asked_for() -> None:
    method = Miner(thaw_after_kimg=1.5)
    assert method.fixed_groups(0) == method.fixed_groups(1499) == {"generator": -1}
    assert method.fixed_groups(1500) == {}


@adversarial
def test_a_mined_snapshot_draws_by_itself_and_can_be_mined_further(name: str, tmp_path: Path) -> None:
    method = Miner(miner_width=8, thaw_after_kimg=0.02)
    published = trained(with_miner(name), source_model(name, tmp_path), tmp_path, method)
    assert published.description["model"]["miner_width"] == 8
    family = family_of(published)
    assert family.nets["generator"].miner.change.weight.abs().sum() > 0
    served = SnapshotSampler(*(tmp_path / "out" / file for file in ("snapshot.safetensors", "snapshot.json")))
    drawn = torch.from_numpy(served.images(4, seed=7)).permute(0, 3, 1, 2)
    assert ((sample(family, family.nets, 4, seed=7) + 1) * 127.5 - drawn).abs().max() < 1
    assert Miner(miner_width=32).family_config(family.config) == family.config  # its own miner, whatever the width
    again = trained(with_miner(name, seed=1), published, tmp_path / "again", METHOD)
    assert not torch.equal(
        again.weights["generator.miner.hidden.weight"], published.weights["generator.miner.hidden.weight"]
    )


def test_nets_without_the_miner_are_refused_and_so_is_a_source_that_lacks_more(tmp_path: Path) -> None:
    init = source_model("dcgan", tmp_path)
    with pytest.raises(TrainingError, match=r"'miner' trains other nets"):
        trained(small_family("dcgan"), init, tmp_path, METHOD)
    weights = {key: tensor for key, tensor in init.weights.items() if not key.startswith("generator.projection.0")}
    with pytest.raises(TrainingError, match=r"1 missing in the snapshot: generator\.projection\.0\.weight"):
        start_from(with_miner("dcgan"), Snapshot(weights, init.description, init.digest), METHOD, 1.0, 0)
    with pytest.raises(TrainingError, match=r"4 missing in the snapshot: generator\.miner"):
        load_into(with_miner("dcgan"), init)


def test_no_miner_is_trained_that_a_snapshot_could_not_describe() -> None:
    widest = Miner(miner_width=8192).family_config(DCGANConfig())
    assert family_config(widest.model_dump(mode="json")) == widest
    for kind in (Miner, FinetuneSection):
        with pytest.raises(ValidationError, match="8192"):
            kind(miner_width=8193)
