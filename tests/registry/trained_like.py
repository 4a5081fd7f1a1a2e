"""Small snapshots of every family whose nets answer as trained ones do, not with the zeros that some start from."""

from pathlib import Path

from genxfer.models.config import FAMILIES, family_config
from genxfer.models.family import ImageShape, build_family
from genxfer.models.files import DESCRIPTION_FILE, WEIGHTS_FILE
from genxfer.registry.sampler import SnapshotSampler
from genxfer.training.snapshot import save_snapshot
from tests.models.as_trained import as_trained

ALL = (*FAMILIES, "dcgan with a miner")


def snapshot_of(name: str, folder: Path, channels: int = 1) -> Path:
    """Leave a snapshot of the family `name` in `folder`, and return that."""
    family, _, miner = name.partition(" with a ")
    values = {"family": family, "width": 8, **({"miner_width": 8} if miner else {})}
    values |= {"sample_steps": 3} if family == "flow" else {"latent_dim": 6}
    shape = ImageShape(1, 28) if family.startswith("mlp") else ImageShape(channels, 16)
    folder.mkdir(parents=True, exist_ok=True)
    nets = as_trained(build_family(family_config(values), shape), seed=1)
    save_snapshot(folder, nets, images_seen=1000, parent=None)
    return folder


def sampler_of(name: str, folder: Path, channels: int = 1) -> SnapshotSampler:
    """Return the nets of such a snapshot."""
    snapshot_of(name, folder, channels)
    return SnapshotSampler(folder / WEIGHTS_FILE, folder / DESCRIPTION_FILE)
