"""Low-rank adapters: what they change, in which precision, and that source and adapter are the snapshot to the bit."""

from pathlib import Path

import pytest
import torch
from torch import nn

from genxfer.errors import ParameterError, TrainingError
from genxfer.models.config import FAMILIES, family_config
from genxfer.models.family import Family, ImageShape, build_family, sample
from genxfer.models.files import ADAPTER_DESCRIPTION_FILE
from genxfer.training.config import ComputeConfig
from genxfer.training.engine import train
from genxfer.training.snapshot import Snapshot, family_of, load_snapshot, save_snapshot
from genxfer.training.tracker import NullTracker
from genxfer.transfer.adapter import Adapter, load_adapter, merge_adapter
from genxfer.transfer.config import Lora
from genxfer.transfer.load import compare
from genxfer.transfer.lora import ADAPTED, LoraMethod
from tests.training.train_small import packed_images, small_config, small_family

families = pytest.mark.parametrize("name", FAMILIES)


def adapt(family: Family, rank: int = 2, alpha: float = 3.0) -> LoraMethod:
    method = LoraMethod(Lora(rank=rank, alpha=alpha))
    method.prepare(family, seed=0, n_images=10)
    return method


def learn(family: Family, method: LoraMethod) -> None:
    """Give the factors that start at zero some values, as training does."""
    generator = torch.Generator().manual_seed(1)
    for layer in method.layers.values():
        up = layer.parametrizations.weight[0].up
        up.data.copy_(torch.randn(up.shape, generator=generator))


def matrices(family: Family) -> dict[str, torch.Tensor]:
    """Return every weight as a matrix of outputs and what each sums over."""
    layers = {f"{name}.weight": layer for name, layer in family.nets.named_modules() if isinstance(layer, ADAPTED)}
    return {
        name: (layer.weight.transpose(0, 1) if isinstance(layer, nn.ConvTranspose2d) else layer.weight).flatten(1)
        for name, layer in layers.items()
    }


@families
@pytest.mark.parametrize("precision", [torch.float32, torch.bfloat16])
def test_training_starts_from_the_source_model_itself(name: str, precision: torch.dtype) -> None:
    source, adapted = small_family(name), small_family(name)
    adapt(adapted)
    for family in (source, adapted):
        family.nets.to(memory_format=family.memory_format).eval()
    with torch.autocast("cpu", torch.bfloat16, enabled=precision == torch.bfloat16):
        first, expected = (sample(family, family.nets, 4, seed=3) for family in (adapted, source))
    assert torch.equal(first, expected)


@families
def test_a_change_has_the_rank_that_was_asked_for_and_merging_keeps_it(name: str) -> None:
    source, family = small_family(name), small_family(name)
    method = adapt(family, rank=2)
    learn(family, method)
    with torch.no_grad():
        adapted = sample(family, family.nets.eval(), 4, seed=3)
    method.finish(family)
    before, after = matrices(source), matrices(family)
    ranks = {key: int(torch.linalg.matrix_rank(after[key] - before[key], rtol=1e-4)) for key in before}
    assert {key for key, rank in ranks.items() if rank} == set(method.layers)
    assert set(ranks.values()) <= {0, 2}
    assert torch.allclose(sample(family, family.nets, 4, seed=3), adapted, atol=1e-4)


@families
def test_what_is_left_without_an_adapter_is_no_larger_than_one(name: str) -> None:
    family, rank = small_family(name), 2
    method = adapt(family, rank)
    method.hold(family, {})
    fixed = {id(p) for p in family.nets.parameters() if not p.requires_grad}
    assert fixed == {id(layer.parametrizations.weight.original) for layer in method.layers.values()}
    for key, matrix in matrices(family).items():
        assert (key in method.layers) == (rank * sum(matrix.shape) < matrix.numel()), key


def test_the_product_is_in_float32_under_autocast() -> None:
    family = small_family("dcgan")
    method = adapt(family)
    learn(family, method)
    layer = method.layers["generator.block_8px.0.weight"]
    exact = layer.weight
    with torch.autocast("cpu", torch.bfloat16):
        assert layer.weight.dtype == torch.float32
        assert torch.equal(layer.weight, exact)


def test_a_rank_too_large_for_every_layer_is_refused() -> None:
    with pytest.raises(ParameterError, match=r"rank is 64, but no weight .*smaller finetune\.rank"):
        adapt(small_family("mlp_gan"), rank=64)


def trained(name: str, folder: Path, source_family: Family | None = None) -> tuple[Snapshot, Snapshot, Adapter]:
    """Return a source model, what a short training with adapters has published, and the adapter."""
    source = train_from(source_family or small_family(name), small_family(name, seed=5), folder)
    return source, read(folder / "out"), load_adapter(folder / "out")


def train_from(source_family: Family, family: Family, folder: Path, min_taken_over: float = 1.0) -> Snapshot:
    """Return the source model, after a short training of `family` with adapters from it."""
    save_snapshot(folder / "source", source_family, images_seen=0, parent=None)
    source = read(folder / "source")
    train(
        family,
        packed_images(folder, family),
        small_config(kimg=0.02),
        work_dir=folder / "work",
        out_dir=folder / "out",
        tracker=NullTracker(),
        method=Lora(rank=2),
        init=source,
        min_taken_over=min_taken_over,
        compute=ComputeConfig(threads=1),
    )
    return source


def read(folder: Path) -> Snapshot:
    return load_snapshot(folder / "snapshot.safetensors", folder / "snapshot.json")


@families
def test_source_and_adapter_are_the_published_snapshot_to_the_bit(name: str, tmp_path: Path) -> None:
    source, published, adapter = trained(name, tmp_path)
    merged = merge_adapter(source.weights, adapter)
    assert merged.keys() == published.weights.keys() == source.weights.keys()
    for key, tensor in merged.items():
        assert tensor.dtype == published.weights[key].dtype
        assert torch.equal(tensor, published.weights[key]), key
    moved = [key for key in adapter.description["adapted"] if not torch.equal(merged[key], source.weights[key])]
    assert moved == list(adapter.description["adapted"])
    assert family_of(published).nets.state_dict().keys() == source.weights.keys()  # loads as any other
    assert adapter.parent == source.digest
    assert adapter.description["whole"] == sorted(source.weights.keys() - adapter.description["adapted"].keys())


def test_an_adapter_learnt_on_converted_weights_claims_no_parent(tmp_path: Path) -> None:
    gray = build_family(small_family("dcgan").config, ImageShape(1, 16))
    source, published, adapter = trained("dcgan", tmp_path, gray)
    assert adapter.parent is None
    assert published.description["parent"]["sha256"] == source.digest
    with pytest.raises(TrainingError, match=r"not learnt on this model: .* were never published"):
        merge_adapter(source.weights, adapter)


def test_the_adapter_of_the_default_model_is_a_few_hundred_kilobytes() -> None:
    from genxfer.models.config import DCGANConfig, FlowConfig

    for config in (DCGANConfig(), FlowConfig()):
        family = build_family(config, ImageShape(1, 32))
        whole = sum(tensor.numel() * tensor.element_size() for tensor in family.nets.state_dict().values())
        method = LoraMethod(Lora())
        method.prepare(family, seed=0, n_images=10)
        method.finish(family)
        size = sum(len(content) for content in method.files(family, None, 0).values())
        assert size < 800_000
        assert size < whole / 4, (size, whole)


def test_an_adapter_of_another_model_is_refused(tmp_path: Path) -> None:
    source, _, adapter = trained("mlp_gan", tmp_path)
    with pytest.raises(TrainingError, match=r"not learnt on this model: \d+ tensors .*SHA-256 " + source.digest):
        merge_adapter(small_family("dcgan").nets.state_dict(), adapter)
    with pytest.raises(TrainingError, match=r"not learnt on this model: .*weight is \[.*matrix of"):
        merge_adapter(small_family("mlp_gan", width=16).nets.state_dict(), adapter)


def test_a_damaged_adapter_and_one_of_another_version_are_refused(tmp_path: Path) -> None:
    with pytest.raises(TrainingError, match="cannot be read as an adapter"):
        load_adapter(tmp_path)
    for name, content in Adapter({}, {"schema": 99}).files().items():
        (tmp_path / name).write_bytes(content)
    with pytest.raises(TrainingError, match="has schema 99; this version reads schema 3"):
        load_adapter(tmp_path)
    (tmp_path / ADAPTER_DESCRIPTION_FILE).write_text("[]")
    with pytest.raises(TrainingError, match="holds list, not the description of an adapter"):
        load_adapter(tmp_path)


def test_a_matrix_that_did_not_come_from_the_source_moves_itself(tmp_path: Path) -> None:
    """Else it would stay as it was drawn, but for a change of low rank."""
    source, family = (
        build_family(family_config({"family": "dcgan", "width": width, "latent_dim": 4}), ImageShape(1, px), seed=width)
        for width, px in ((16, 16), (8, 32))
    )
    names = compare(family, source.nets.state_dict()).fresh
    fresh = {name: weight.clone() for name, weight in family.nets.named_parameters() if name in names}
    fresh = {name: weight for name, weight in fresh.items() if weight.ndim > 1 and min(weight.shape[:2]) > 2}
    assert {name.split(".")[0] for name in fresh} == {"generator", "discriminator"}
    train_from(source, family, tmp_path, min_taken_over=0.0)
    for name, weight in fresh.items():
        assert torch.linalg.matrix_rank((family.nets.get_parameter(name) - weight).flatten(1)) > 2, name
