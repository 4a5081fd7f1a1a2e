"""What every family owes the engine: a new line in FAMILIES is held to all of this without a test of its own."""

from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from genxfer.errors import ParameterError
from genxfer.models.config import FAMILIES, family_config
from genxfer.models.family import (
    SAMPLE_CHUNK,
    Family,
    ImageShape,
    Step,
    build_family,
    chunk_noise,
    interpolate,
    sample,
    sample_at,
    slerp,
)
from genxfer.noise import Noise

families = pytest.mark.parametrize("name", FAMILIES)


def small_family(name: str, seed: int = 0) -> Family:
    """Return a narrow net, so that the whole file takes seconds: 28 px gray if dense, 16 px colour otherwise."""
    shape = ImageShape(1, 28) if name.startswith("mlp") else ImageShape(3, 16)
    steps = {"sample_steps": 2} if name == "flow" else {}
    return build_family(family_config({"family": name, "width": 8, **steps}), shape, seed)


def real_batch(family: Family, n: int = 8) -> Tensor:
    size = (n, family.shape.channels, family.shape.resolution_px, family.shape.resolution_px)
    return torch.rand(size, generator=torch.Generator().manual_seed(5)) * 2 - 1


def step_at(index: int = 0, images_seen: int = 20_000, seed: int = 3) -> Step:
    return Step(index, images_seen, Noise(torch.Generator().manual_seed(seed)))


def minimised(terms: dict[str, Tensor]) -> Tensor:
    return torch.stack([value for name, value in terms.items() if not name.startswith("~")]).sum()


def train_steps(family: Family, steps: int) -> None:
    """Plain gradient steps; the gradients of the last step of each phase stay in place."""
    optimizers = {
        phase.name: torch.optim.Adam([p for net in phase.nets for p in family.nets[net].parameters()], lr=1e-3)
        for phase in family.phases
    }
    for index in range(steps):
        for phase in family.phases:
            optimizer = optimizers[phase.name]
            optimizer.zero_grad()
            minimised(family.loss(phase.name, real_batch(family), step_at(index))).backward()
            optimizer.step()


@families
def test_samples_have_the_shape_and_range_of_images(name: str) -> None:
    family = small_family(name)
    images = sample(family, family.nets.eval(), n=5, seed=0)
    assert images.shape == (5, family.shape.channels, family.shape.resolution_px, family.shape.resolution_px)
    assert images.dtype == torch.float32
    assert images.min() >= -1
    assert images.max() <= 1
    assert images.std() > 0


@families
def test_the_sampling_nets_are_enough_to_sample(name: str) -> None:
    family = small_family(name)
    published = nn.ModuleDict({net: family.nets[net] for net in family.sampling_nets}).eval()
    assert torch.equal(sample(family, published, 3, seed=1), sample(family, family.nets.eval(), 3, seed=1))


@families
def test_a_sample_depends_on_seed_and_place_only(name: str) -> None:
    family = small_family(name)
    nets = family.nets.eval()
    many = sample(family, nets, n=SAMPLE_CHUNK + 8, seed=7)
    torch.manual_seed(99)  # the global state must not matter
    for n in (1, 5, SAMPLE_CHUNK, SAMPLE_CHUNK + 1):
        assert torch.equal(sample(family, nets, n, seed=7), many[:n])
    assert not torch.equal(sample(family, nets, n=5, seed=8), many[:5])
    assert not torch.equal(many[0], many[1])
    assert not torch.equal(many[0], many[SAMPLE_CHUNK])


@families
def test_no_samples_are_an_empty_batch(name: str) -> None:
    family = small_family(name)
    assert sample(family, family.nets.eval(), n=0, seed=0).shape[0] == 0


@families
def test_single_samples_are_those_of_the_whole_set(name: str) -> None:
    family = small_family(name)
    nets = family.nets.eval()
    places = [SAMPLE_CHUNK + 3, 0, 5, SAMPLE_CHUNK, 5]
    assert torch.equal(sample_at(family, nets, places, seed=7), sample(family, nets, SAMPLE_CHUNK + 8, seed=7)[places])
    assert sample_at(family, nets, [], seed=7).shape[0] == 0


@families
def test_an_interpolation_goes_from_one_sample_to_the_next_by_seed(name: str) -> None:
    family = small_family(name)
    nets = family.nets.eval()
    rows = interpolate(family, nets, rows=5, steps=8, seed=7)  # more than one chunk
    torch.manual_seed(99)
    assert torch.equal(interpolate(family, nets, rows=5, steps=8, seed=7), rows)
    assert rows.shape == (5, 8, *rows.shape[2:])
    ends = sample(family, nets, 10, seed=7)
    assert torch.allclose(rows[:, 0], ends[0::2], atol=1e-5)
    assert torch.allclose(rows[:, -1], ends[1::2], atol=1e-5)
    step = (rows[:, 1:] - rows[:, :-1]).flatten(2).norm(dim=2)
    whole = (rows[:, -1] - rows[:, 0]).flatten(1).norm(dim=1)
    assert (step.max(dim=1).values < whole).all()
    assert (step > 0).all()
    assert not torch.equal(interpolate(family, nets, rows=1, steps=8, seed=8)[0], rows[0])


@families
def test_noise_on_a_great_circle_keeps_its_norm(name: str) -> None:
    a, b = chunk_noise(family := small_family(name), 0, seed=1), chunk_noise(family, 1, seed=1)
    norms = torch.stack([slerp(a, b, share).flatten(1).norm(dim=1) for share in (0, 0.25, 0.5, 0.75, 1)])
    assert torch.equal(slerp(a, b, 0), a)
    assert torch.equal(slerp(a, b, 1), b)
    longest, shortest = torch.maximum(norms[0], norms[-1]), torch.minimum(norms[0], norms[-1])
    assert (norms < 1.1 * longest).all()
    assert (norms > 0.85 * shortest).all()  # the straight line: 0.7


def test_a_great_circle_turns_at_an_even_pace() -> None:
    a, b = torch.tensor([[1.0, 0.0], [2.0, 0.0]]), torch.tensor([[0.0, 1.0], [2.0, 0.0]])
    third = slerp(a, b, 1 / 3)
    assert torch.allclose(third[0], torch.tensor([3**0.5 / 2, 0.5]))
    assert torch.equal(third[1], a[1])  # the same noise twice: no angle to divide by
    assert slerp(a, -a, 0.5).isfinite().all()


@families
def test_every_phase_answers_with_finite_scalar_terms(name: str) -> None:
    family = small_family(name)
    for phase in family.phases:
        terms = family.loss(phase.name, real_batch(family), step_at())
        assert all(value.shape == () and torch.isfinite(value) for value in terms.values()), terms
        assert minimised(terms).requires_grad
        assert not any(value.requires_grad for term, value in terms.items() if term.startswith("~"))


@families
def test_the_terms_of_different_phases_have_different_names(name: str) -> None:
    family = small_family(name)
    terms = [term for phase in family.phases for term in family.loss(phase.name, real_batch(family), step_at())]
    assert len(terms) == len(set(terms))


@families
def test_every_parameter_gets_a_gradient_over_the_phases(name: str) -> None:
    family = small_family(name)
    train_steps(family, steps=3)  # not the first: layers that start at zero shield those before them
    without = [key for key, p in family.nets.named_parameters() if p.grad is None or not p.grad.abs().sum() > 0]
    assert without == []


@families
def test_a_phase_moves_its_own_nets_only(name: str) -> None:
    family = small_family(name)
    nets = {net for phase in family.phases for net in phase.nets}
    assert nets == set(family.nets) - set(family.fitted_nets)
    assert sum(len(phase.nets) for phase in family.phases) == len(nets), "a net belongs to one phase"
    assert set(family.sampling_nets) <= nets | set(family.fitted_nets)


@families
def test_weights_stay_finite_over_some_steps(name: str) -> None:
    family = small_family(name)
    train_steps(family, steps=6)
    assert all(torch.isfinite(p).all() for p in family.nets.state_dict().values())


@families
def test_the_loss_is_a_pure_function_of_weights_batch_and_seed(name: str) -> None:
    family, twin = small_family(name), small_family(name)
    for phase in family.phases:
        torch.manual_seed(1)
        first = family.loss(phase.name, real_batch(family), step_at())
        torch.manual_seed(2)
        again = twin.loss(phase.name, real_batch(twin), step_at())
        other = twin.loss(phase.name, real_batch(twin), step_at(seed=4))
        assert all(torch.equal(first[term], again[term]) for term in first)
        assert not torch.equal(minimised(first), minimised(other))


@families
def test_weights_depend_on_the_seed_only(name: str) -> None:
    torch.manual_seed(11)
    first = small_family(name, seed=4).nets.state_dict()
    before = torch.random.get_rng_state()
    again = small_family(name, seed=4).nets.state_dict()
    assert torch.equal(before, torch.random.get_rng_state()), "building must leave torch's global state alone"
    other = small_family(name, seed=5).nets.state_dict()
    assert all(torch.equal(first[key], again[key]) for key in first)
    assert any(not torch.equal(first[key], other[key]) for key in first)


@families
def test_saved_and_loaded_weights_sample_the_same(name: str, tmp_path: Path) -> None:
    family = small_family(name, seed=0)
    train_steps(family, steps=1)  # moves BatchNorm statistics too
    save_file({key: value.contiguous() for key, value in family.nets.state_dict().items()}, tmp_path / "w.safetensors")
    loaded = small_family(name, seed=1)
    loaded.nets.load_state_dict(load_file(tmp_path / "w.safetensors"))
    assert torch.equal(sample(family, family.nets.eval(), 4, seed=2), sample(loaded, loaded.nets.eval(), 4, seed=2))


@families
def test_layer_groups_cover_every_parameter_and_buffer_exactly_once(name: str) -> None:
    family = small_family(name)
    for net, groups in family.layer_groups().items():
        grouped = [
            id(t) for group in groups for module in group.modules for t in module.state_dict(keep_vars=True).values()
        ]
        assert sorted(grouped) == sorted(id(t) for t in family.nets[net].state_dict(keep_vars=True).values()), net


@families
def test_layer_groups_are_those_the_config_names(name: str) -> None:
    family = small_family(name)
    promised = family.config.layer_groups(family.shape.resolution_px)
    assert {net: tuple(group.name for group in groups) for net, groups in family.layer_groups().items()} == promised
    assert set(promised) == set(family.nets) - set(family.fitted_nets)


@families
def test_layer_groups_run_from_the_image_side_to_the_latent_side(name: str) -> None:
    """A net that reads images uses its groups in that order, one that writes images in the reverse order."""
    family = small_family(name)
    for net, groups in family.layer_groups().items():
        if net == "unet":
            continue  # reads and writes images: each of its groups is used twice
        used: list[str] = []
        for group in groups:
            group.modules[0].register_forward_hook(lambda *_, name=group.name, used=used: used.append(name))
        reads_images = net in ("discriminator", "encoder")
        family.nets[net](real_batch(family, n=2) if reads_images else torch.randn(2, family.config.latent_dim))
        names = [group.name for group in groups]
        assert used == (names if reads_images else names[::-1])


@pytest.mark.parametrize("name", [name for name in FAMILIES if not name.startswith("mlp")])
@pytest.mark.parametrize("resolution_px", [16, 32, 64])
def test_convolutional_families_make_every_power_of_two(name: str, resolution_px: int) -> None:
    steps = {"sample_steps": 1} if name == "flow" else {}
    family = build_family(family_config({"family": name, "width": 4, **steps}), ImageShape(1, resolution_px))
    real = real_batch(family, n=2)
    for phase in family.phases:
        assert torch.isfinite(minimised(family.loss(phase.name, real, step_at())))
    assert sample(family, family.nets.eval(), 1, seed=0).shape == (1, 1, resolution_px, resolution_px)


@families
def test_a_wrong_resolution_is_a_parameter_error_that_names_key_and_value(name: str) -> None:
    with pytest.raises(ParameterError, match=r"dataset\.resolution_px is 30.*Set dataset\.resolution_px"):
        build_family(family_config({"family": name}), ImageShape(1, 30))


def test_the_dense_families_refuse_colour() -> None:
    with pytest.raises(ParameterError, match=r"dataset\.channels is 3"):
        build_family(family_config({"family": "mlp_gan"}), ImageShape(3, 28))


def test_an_unknown_family_is_answered_with_the_known_ones() -> None:
    with pytest.raises(ParameterError, match=r"'dcgam'; known families: dcgan, vae.*Did you mean 'dcgan'"):
        family_config({"family": "dcgam"})


@families
def test_the_loss_runs_under_bf16_autocast_in_the_recommended_layout(name: str) -> None:
    family = small_family(name)
    family.nets.to(memory_format=family.memory_format)
    real = real_batch(family).contiguous(memory_format=family.memory_format)
    for phase in family.phases:
        with torch.autocast("cpu", torch.bfloat16):
            terms = family.loss(phase.name, real, step_at())
        full = family.loss(phase.name, real, step_at())
        minimised(terms).backward()
        assert all(value.dtype == torch.float32 for value in terms.values())
        assert minimised(terms).item() == pytest.approx(minimised(full).item(), rel=0.05)
