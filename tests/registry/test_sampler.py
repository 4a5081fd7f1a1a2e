"""What a snapshot draws: by seed, from latents of the caller's, and between two samples."""

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch

from genxfer.data.dataset import to_uint8
from genxfer.errors import ParameterError
from genxfer.models.config import FAMILIES, FamilyConfig
from genxfer.models.family import SAMPLE_CHUNK, interpolate, sample
from genxfer.registry.sampler import SnapshotSampler

SMALL: dict[str, dict[str, int]] = {"flow": {"width": 8, "sample_steps": 2}}

MakeSampler = Callable[[str], SnapshotSampler]


@pytest.fixture
def make_sampler(tmp_path: Path, write_snapshot: Callable[..., Path]) -> MakeSampler:
    def make(name: str) -> SnapshotSampler:
        config: FamilyConfig = FAMILIES[name].model_validate({"width": 8, **SMALL.get(name, {})})
        folder = write_snapshot(tmp_path / name, config)
        return SnapshotSampler(folder / "snapshot.safetensors", folder / "snapshot.json")

    return make


@pytest.mark.parametrize("name", FAMILIES)
def test_samples_are_those_that_the_evaluation_scores(name: str, make_sampler: MakeSampler) -> None:
    sampler = make_sampler(name)
    expected = to_uint8(sample(sampler.family, sampler.family.nets, 40, seed=7)).permute(0, 2, 3, 1)
    assert np.array_equal(sampler.images(40, seed=7), expected.numpy())


def test_the_nets_always_draw_as_many_at_once(make_sampler: MakeSampler, monkeypatch: pytest.MonkeyPatch) -> None:
    """Kernels for other sizes round differently: too little to show in most images, and so in a test of pixels."""
    sampler, sizes = make_sampler("vae"), []
    family, decode = sampler.family, sampler.family.decode
    assert not torch.equal(sampler.decode(sampler.noise(1, 0)), sampler.decode(sampler.noise(SAMPLE_CHUNK, 0))[:1])
    monkeypatch.setattr(family, "decode", lambda nets, latent: sizes.append(len(latent)) or decode(nets, latent))
    for n in (1, 3, SAMPLE_CHUNK, SAMPLE_CHUNK + 1):
        assert len(sampler.images(n, seed=0)) == n
        assert len(sampler.images_of(sampler.noise(n, seed=0))) == n
    assert set(sizes) == {SAMPLE_CHUNK}


@pytest.mark.parametrize("name", FAMILIES)
def test_a_latent_gives_the_image_that_its_seed_gives_flat_or_in_its_own_shape(
    name: str, make_sampler: MakeSampler
) -> None:
    sampler = make_sampler(name)
    noise = sampler.noise(5, seed=3)
    images = sampler.images(5, seed=3)
    for latent in (noise.numpy(), noise.flatten(1).tolist()):
        assert np.array_equal(sampler.images_of(latent), images)
    assert np.array_equal(sampler.images_of(noise * 0.5), sampler.images(5, seed=3, temperature=0.5))
    assert not np.array_equal(sampler.images(5, seed=3, temperature=0.5), images)


@pytest.mark.parametrize("name", FAMILIES)
def test_at_temperature_0_all_images_are_the_same_one(name: str, make_sampler: MakeSampler) -> None:
    images = make_sampler(name).images(3, seed=0, temperature=0)
    assert (images == images[0]).all()


@pytest.mark.parametrize("name", FAMILIES)
def test_a_row_goes_from_one_sample_to_the_next_as_in_the_report(name: str, make_sampler: MakeSampler) -> None:
    sampler = make_sampler(name)
    rows = sampler.interpolations(rows=3, frames=5, seed=7)
    expected = to_uint8(interpolate(sampler.family, sampler.family.nets, rows=3, steps=5, seed=7))
    assert np.array_equal(rows, expected.permute(0, 1, 3, 4, 2).numpy())
    assert np.array_equal(rows[:, [0, -1]].reshape(-1, *rows.shape[2:]), sampler.images(6, seed=7))
    many = sampler.interpolations(rows=20, frames=2, seed=7)  # more ends than one chunk of noise has
    assert np.array_equal(many.reshape(-1, *rows.shape[2:]), sampler.images(40, seed=7))


def test_what_is_out_of_range_is_said(make_sampler: MakeSampler) -> None:
    sampler = make_sampler("flow")
    with pytest.raises(ParameterError, match=r"latent has the shape \[2, 1, 16, 15\]; this model, a flow, takes 256"):
        sampler.images_of(np.zeros((2, 1, 16, 15)))
    with pytest.raises(ParameterError, match="temperature is 11; allowed is 0 to 10"):
        sampler.images(1, 0, temperature=11)
    with pytest.raises(ParameterError, match="frames is 1"):
        sampler.interpolations(rows=1, frames=1, seed=0)
