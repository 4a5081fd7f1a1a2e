"""Every method on every family: what it fixes stays, what it moves moves, and a resumed run ends at the same bits."""

from collections.abc import Callable
from pathlib import Path
from types import ModuleType

import pytest
import torch

from genxfer.errors import ParameterError
from genxfer.models.config import FAMILIES, family_config
from genxfer.models.family import Family, build_family
from genxfer.training.checkpoint import checkpoint_files
from genxfer.training.pace import TrainResult
from genxfer.training.snapshot import Snapshot, family_of, load_snapshot
from genxfer.training.tracker import NullTracker
from genxfer.transfer import freeze
from genxfer.transfer.config import METHODS, Freeze, Gradual, Lora, MethodConfig, check_method, gradual_defaults

TrainSmall = Callable[..., TrainResult]
RESOLUTIONS_PX = {"mlp_gan": 28, "mlp_vae": 28}


def layer_groups(family: str) -> dict[str, tuple[str, ...]]:
    return family_config({"family": family}).layer_groups(RESOLUTIONS_PX.get(family, 16))


def method_for(name: str, family: str) -> MethodConfig:
    """Return the method with numbers that fit the small nets of these tests."""
    groups = layer_groups(family)
    if name == "freeze":
        return Freeze(freeze={next(iter(groups)): 1})
    if name == "gradual":
        return Gradual(**gradual_defaults(groups, kimg=0.04))
    if name == "lora":
        return Lora(rank=1)
    return METHODS[name]()  # type: ignore[call-arg]


def fits(name: str, family: str) -> bool:
    return METHODS[name].unfit(family_config({"family": family}), layer_groups(family)) is None


PAIRS = [(name, family) for name in METHODS for family in FAMILIES]
fitting = pytest.mark.parametrize(("name", "family"), [pair for pair in PAIRS if fits(*pair)])


def adapted_family(small: ModuleType, family: str, method: MethodConfig, seed: int = 0) -> Family:
    """Return the small family that `method` trains."""
    plain = small.small_family(family, seed)
    return build_family(method.family_config(plain.config), plain.shape, seed)


class StopAtFirstPicture(NullTracker):
    """A tracker at which a run is cancelled."""

    def picture(self, name: str, images: object, images_seen: int) -> None:
        raise KeyboardInterrupt


def read(folder: Path) -> Snapshot:
    return load_snapshot(folder / "out/snapshot.safetensors", folder / "out/snapshot.json")


@pytest.fixture
def source(small: ModuleType, train_small: TrainSmall, tmp_path: Path) -> Callable[[str], Snapshot]:
    def make(family: str) -> Snapshot:
        train_small(small.small_family(family), tmp_path / "source", kimg=0.008)
        return read(tmp_path / "source")

    return make


@fitting
def test_what_a_method_fixes_keeps_its_bits_and_what_it_moves_does_not(
    name: str, family: str, small: ModuleType, train_small: TrainSmall, source: Callable, tmp_path: Path
) -> None:
    init, method = source(family), method_for(name, family)
    target = adapted_family(small, family, method, seed=5)
    before = {key: tensor.clone() for key, tensor in target.nets.state_dict().items()} | init.weights
    result = train_small(target, tmp_path / "target", init=init, method=method)
    published = family_of(read(tmp_path / "target"))
    names = {id(tensor): tensor_name for tensor_name, tensor in published.nets.state_dict(keep_vars=True).items()}
    rows = {(row.net, row.group): row for row in result.layer_groups}
    thaws = name == "gradual"
    for net, groups in published.layer_groups().items():
        for group in groups:
            tensors = [tensor for module in group.modules for tensor in module.state_dict(keep_vars=True).values()]
            same = [torch.equal(tensor, before[names[id(tensor)]]) for tensor in tensors]
            row = rows[net, group.name]
            if row.moving == 0 and not thaws:
                assert all(same), (net, group.name)
            elif row.moving == row.parameters or thaws:
                assert not any(same), (net, group.name)
            else:
                assert not all(same), (net, group.name)
    assert result.moved_parameters > 0


@fitting
def test_a_cancelled_run_with_any_method_goes_on_to_the_same_bits(
    name: str, family: str, small: ModuleType, train_small: TrainSmall, source: Callable, tmp_path: Path
) -> None:
    init, whole, parts = source(family), tmp_path / "whole", tmp_path / "parts"
    method = method_for(name, family)
    keys = {"samples_every_kimg": 0.016, "init": init, "method": method}
    train_small(adapted_family(small, family, method), whole, **keys)
    with pytest.raises(KeyboardInterrupt):
        train_small(adapted_family(small, family, method), parts, tracker=StopAtFirstPicture(), **keys)
    assert checkpoint_files(parts / "work")
    result = train_small(adapted_family(small, family, method, seed=9), parts, **keys)
    assert result.resumed_from == 16
    for file in ("snapshot.safetensors", "snapshot.json", "curves.csv"):
        assert (parts / "out" / file).read_bytes() == (whole / "out" / file).read_bytes(), file


@pytest.mark.parametrize(("name", "family"), [pair for pair in PAIRS if not fits(*pair)])
def test_a_method_that_is_not_for_a_family_says_why(name: str, family: str) -> None:
    with pytest.raises(
        ParameterError, match=rf"method is '{name}'.*not for family '{family}': .*Methods for it: auto, "
    ):
        check_method(method_for(name, family), family_config({"family": family}), RESOLUTIONS_PX.get(family, 16))


def test_the_table_of_what_moves_tells_parts_of_groups(small: ModuleType) -> None:
    family: Family = small.small_family("dcgan")
    freeze.apply(family, {"generator": 1})
    family.nets["discriminator"].head[1].bias.requires_grad_(False)
    text = freeze.summary(freeze.group_rows(family))
    assert "256 of them move" in text
    assert text.count("  fixed") == 1
