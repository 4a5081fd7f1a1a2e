"""An autoencoder draws from where its training images' latents lie: fitted when samples are due, published with it."""

from contextlib import suppress
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file
from train_small import packed_images, small_config, small_family, small_validation

from genxfer.data.dataset import PackedImages, to_model_range
from genxfer.metrics import load_extractor
from genxfer.models.autoencoder import Autoencoder
from genxfer.models.family import sample
from genxfer.models.files import DESCRIPTION_FILE, WEIGHTS_FILE
from genxfer.models.latents import LatentMixture
from genxfer.training.distributed import World
from genxfer.training.engine import train
from genxfer.training.health import DivergenceError
from genxfer.training.mixture import mixture_of
from genxfer.training.score import score
from genxfer.training.snapshot import Snapshot, family_of, load_snapshot
from genxfer.training.start import start_from
from genxfer.training.tracker import NullTracker
from genxfer.transfer.config import CDC, Full

AUTOENCODERS = ("vae", "mlp_vae")
two_names = pytest.mark.parametrize("name", AUTOENCODERS)


def autoencoder(name: str, **keys: object) -> Autoencoder:
    family = small_family(name, **keys)
    assert isinstance(family, Autoencoder)
    return family


def batches(images: PackedImages) -> list[torch.Tensor]:
    return [to_model_range(images.batch(np.arange(len(images))))]


def published(folder: Path) -> Snapshot:
    return load_snapshot(folder / WEIGHTS_FILE, folder / DESCRIPTION_FILE)


def trained(
    family: Autoencoder, folder: Path, *, validated: bool = False, packed: PackedImages | None = None, **keys: object
) -> Autoencoder:
    folder.mkdir(exist_ok=True)
    config = small_config(**{"augment": (), "mirror": False} | keys)
    train(
        family,
        packed or packed_images(folder, family),
        config,
        work_dir=folder / "work",
        out_dir=folder,
        tracker=NullTracker(),
        validation=small_validation(folder, family, config, World()) if validated else None,
    )
    result = family_of(published(folder))
    assert isinstance(result, Autoencoder)
    return result


def test_two_clouds_of_latents_are_found_and_how_many_lie_in_each() -> None:
    generator = torch.Generator().manual_seed(1)
    mean = 0.1 * torch.randn(80, 3, generator=generator, dtype=torch.float64)
    mean[:20] += torch.tensor([4.0, 0.0, 0.0])
    weights, means, covariances = mixture_of(mean, torch.full((80, 3), -4.0, dtype=torch.float64), most=2)
    order = means[:, 0].argsort()
    assert weights[order].tolist() == pytest.approx([0.75, 0.25], abs=0.01)
    assert torch.allclose(means[order], torch.tensor([[0.0, 0, 0], [4, 0, 0]], dtype=torch.float64), atol=0.1)
    # Each latent is a cloud itself: the variance is that of the means and its own.
    own = 0.01 + np.exp(-4.0)
    assert torch.allclose(covariances.diagonal(dim1=1, dim2=2), torch.full((2, 3), own).double(), rtol=0.6)


@pytest.mark.parametrize(("images", "expected"), [(1, 1), (4, 1), (10, 1), (49, 4), (1000, 10)])
def test_no_normal_distribution_stands_for_a_single_image(images: int, expected: int) -> None:
    mean = torch.randn(images, 4, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    weights, means, covariances = mixture_of(mean, torch.zeros_like(mean), most=10)
    assert (len(weights), len(means), len(covariances)) == (expected,) * 3


def test_normal_distributions_stand_in_the_order_in_which_they_lie() -> None:
    """So that a temperature below 1, which draws the middle ones, draws neighbours, and not any."""
    generator = torch.Generator().manual_seed(1)
    places = torch.tensor([3.0, -6, 0, 6, -3]).repeat_interleave(20)[:, None] * torch.tensor([0.6, 0.0, -0.8])
    mean = (places + 0.1 * torch.randn(100, 3, generator=generator)).double()
    _, means, _ = mixture_of(mean, torch.full((100, 3), -6.0, dtype=torch.float64), most=5)
    along = means @ torch.tensor([0.6, 0.0, -0.8], dtype=torch.float64)
    assert along.abs().tolist() == pytest.approx([6, 3, 0, 3, 6], abs=0.2)
    assert len({*along.diff().sign().tolist()}) == 1


@two_names
def test_the_fit_leaves_everything_else_as_it_is(name: str, tmp_path: Path) -> None:
    family = autoencoder(name)
    family.nets["encoder"][0].eval()  # a frozen layer group
    modes = [module.training for module in family.nets.modules()]
    before = {key: tensor.clone() for key, tensor in family.nets.state_dict().items()}
    family.fit(batches(packed_images(tmp_path, family)), mixture_of)
    assert [module.training for module in family.nets.modules()] == modes
    changed = {key for key, tensor in family.nets.state_dict().items() if not torch.equal(tensor, before[key])}
    assert changed == {"latents.shares", "latents.means", "latents.factors"}


@two_names
def test_with_no_components_samples_start_from_the_prior(name: str, tmp_path: Path) -> None:
    family = trained(autoencoder(name, latent_components=0), tmp_path)
    noise = torch.randn(5, 5, generator=torch.Generator().manual_seed(0))
    assert torch.equal(family.latent(family.nets, noise), noise[:, :-1])


@two_names
def test_a_training_that_diverged_leaves_the_last_fit(name: str, tmp_path: Path) -> None:
    family = autoencoder(name)
    with torch.no_grad():
        next(family.nets["encoder"].parameters()).fill_(torch.nan)
    family.fit(batches(packed_images(tmp_path, family)), mixture_of)
    assert torch.equal(family.nets["latents"].means, LatentMixture(4, 10).means)


@two_names
@pytest.mark.parametrize("on_divergence", ["stop", "rollback"])
def test_a_training_that_diverges_is_told_as_such(name: str, on_divergence: str, tmp_path: Path) -> None:
    """The latents grow beyond what a mixture can be fitted to before any loss is no number."""
    keys = {"lr": 1.0, "kimg": 0.4, "validate_every_kimg": 0.004, "on_divergence": on_divergence}
    with suppress(DivergenceError):
        trained(autoencoder(name), tmp_path, validated=True, **keys)


@pytest.mark.parametrize("log_variance", [300.0, 800.0, torch.inf])
def test_of_latents_that_are_as_good_as_infinite_there_is_no_mixture(log_variance: float) -> None:
    mixture, mean = LatentMixture(2, 3), 1e7 * torch.randn(30, 2, dtype=torch.float64)
    with pytest.raises(ValueError):  # noqa: PT011  scikit-learn's words or ours
        mixture.hold(*mixture_of(mean, torch.full_like(mean, log_variance), most=3))
    assert torch.equal(mixture.means, torch.zeros(3, 2))


def test_mirrored_images_are_fitted_to_where_the_nets_are_shown_them(tmp_path: Path) -> None:
    """Bright on the left alone: their mirror images' latents are others."""
    images = np.zeros((30, 1, 28, 28), np.uint8)  # of one batch
    images[..., :10] = np.random.default_rng(0).integers(150, 256, (30, 1, 28, 10))
    np.save(tmp_path / "train.npy", images)
    plain, mirrored = (autoencoder("mlp_vae") for _ in range(2))
    for family, mirror in ((plain, False), (mirrored, True)):
        trained(family, tmp_path / str(mirror), packed=packed_images(tmp_path, family), mirror=mirror, kimg=0.2)
    both = [*batches(packed_images(tmp_path, mirrored)), batches(packed_images(tmp_path, mirrored))[0].flip(3)]
    before = mirrored.nets["latents"].means.clone()
    mirrored.fit(both, mixture_of)
    assert torch.equal(mirrored.nets["latents"].means, before)
    mirrored.fit(both[:1], mixture_of)
    assert not torch.equal(mirrored.nets["latents"].means, before)


@pytest.mark.parametrize("source_has", [1, 10])
def test_the_prior_is_asked_for_whatever_the_source_model_draws_from(source_has: int, tmp_path: Path) -> None:
    source = trained(autoencoder("vae", latent_components=source_has), tmp_path / "source")
    family = autoencoder("vae", latent_components=0)
    report = start_from(family, published(tmp_path / "source"), Full(), 1.0, 40)
    assert report.share == 1
    noise = torch.randn(5, 5, generator=torch.Generator().manual_seed(0))
    assert torch.equal(family.latent(family.nets, noise), noise[:, :-1])
    assert not torch.equal(source.latent(source.nets, noise), noise[:, :-1])


def test_a_source_model_with_another_mixture_is_whole_and_scores_otherwise(tmp_path: Path) -> None:
    trained(autoencoder("vae"), tmp_path)
    family = autoencoder("vae", latent_components=20)
    report = start_from(family, published(tmp_path), CDC(), 1.0, 40)
    assert report.exact
    assert set(report.new) == {"latents.shares", "latents.means", "latents.factors"}
    assert "100 % of" in str(report)


@two_names
@pytest.mark.parametrize("validated", [False, True])
def test_what_is_published_was_fitted_to_the_published_encoder(name: str, validated: bool, tmp_path: Path) -> None:
    family = trained(autoencoder(name), tmp_path, validated=validated, validate_every_kimg=0.01, lr=3e-3)
    fitted = {key: tensor.clone() for key, tensor in family.nets["latents"].state_dict().items()}
    assert not torch.equal(fitted["means"], LatentMixture(4, 10).means)
    family.fit(batches(packed_images(tmp_path, family)), mixture_of)
    for key, tensor in family.nets["latents"].state_dict().items():
        assert torch.equal(tensor, fitted[key]), key


@two_names
def test_a_snapshot_from_before_there_were_mixtures_draws_from_the_prior(name: str, tmp_path: Path) -> None:
    trained(autoencoder(name), tmp_path)
    weights = load_file(tmp_path / WEIGHTS_FILE)
    save_file(
        {key: tensor for key, tensor in weights.items() if not key.startswith("latents.")}, tmp_path / WEIGHTS_FILE
    )
    old = family_of(published(tmp_path))
    noise = torch.randn(5, 5, generator=torch.Generator().manual_seed(0))
    assert torch.equal(old.latent(old.nets, noise), noise[:, :-1])
    assert torch.equal(
        old.nets["decoder"].state_dict()[(key := next(iter(old.nets["decoder"].state_dict())))],
        weights[f"decoder.{key}"],
    )


@pytest.mark.slow
def test_of_few_images_samples_are_nearer_to_others_of_their_kind_than_those_from_the_prior(
    tmp_path: Path,
) -> None:
    from sklearn.datasets import load_digits

    digits = torch.nn.functional.interpolate(torch.from_numpy(load_digits().images[:, None] / 16), size=(28, 28))
    packed = (digits * 255).round().to(torch.uint8)
    np.save(tmp_path / "train.npy", packed[:100].numpy())
    family = autoencoder("mlp_vae", width=64, latent_dim=16)
    family = trained(family, tmp_path, kimg=10.0, batch=32, report_every_kimg=5.0, samples_every_kimg=10.0)
    extractor = load_extractor("lite0")
    real = extractor.features(packed[500:1000])

    def kid() -> float:
        drawn = sample(family, family.nets, 500, seed=0)
        return score(real, extractor.features(((drawn + 1) * 127.5).round().to(torch.uint8))).value

    fitted = kid()
    family.nets["latents"].load_state_dict(LatentMixture(16, 10).state_dict())
    assert fitted < 0.8 * kid()
