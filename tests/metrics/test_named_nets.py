"""The extractors whose weights the user names: the same numbers as the libraries that the weights come from."""

from pathlib import Path

import pytest
import timm
import torch
import torch.nn.functional as F
from torch import Tensor
from torch_fidelity.feature_extractor_inceptionv3 import FeatureExtractorInceptionV3

from genxfer.errors import DataError, GenxferError, ParameterError
from genxfer.metrics import EXTRACTOR_PACKAGES, NEED_WEIGHTS, load_extractor
from genxfer.metrics.weights import PUBLISHED, VARIABLE, find_weights
from tests.metrics.random_weights import random_weights


@pytest.fixture(scope="module")
def weights(tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    folder = tmp_path_factory.mktemp("weights")
    return {name: random_weights(name, folder) for name in NEED_WEIGHTS}


def file_of(location: str) -> Path:
    return Path(location.partition("#")[0])


def images(size_px: int) -> Tensor:
    generator = torch.Generator().manual_seed(1)
    return torch.randint(0, 256, (2, 3, size_px, size_px), generator=generator, dtype=torch.uint8)


def test_inception_features_equal_those_of_torch_fidelity(weights: dict[str, str]) -> None:
    path = str(file_of(weights["inception"]))
    reference = FeatureExtractorInceptionV3("inception-v3-compat", ["2048"], feature_extractor_weights_path=path)
    found = load_extractor("inception", weights=weights["inception"]).features(images(32))
    assert found.shape == (2, 2048)
    assert found.std() > 1e-3
    torch.testing.assert_close(found, reference(images(32))[0], rtol=1e-4, atol=1e-5)


def test_dinov2_features_equal_those_of_timm(weights: dict[str, str]) -> None:
    reference = timm.create_model("vit_small_patch14_dinov2", num_classes=0, dynamic_img_size=True).eval()
    reference.load_state_dict(torch.load(file_of(weights["dinov2"]), weights_only=True))
    config = reference.default_cfg
    resized = F.interpolate(images(64).float() / 255, (224, 224), mode="bicubic", antialias=True).clamp(0, 1)
    mean, deviation = (torch.tensor(config[key])[:, None, None] for key in ("mean", "std"))
    with torch.no_grad():
        expected = reference((resized - mean) / deviation)
    found = load_extractor("dinov2", weights=weights["dinov2"]).features(images(64))
    assert found.shape == (2, 384)
    torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-4)


def test_large_images_are_shrunk_with_antialiasing_before_inception(weights: dict[str, str]) -> None:
    extractor = load_extractor("inception", weights=weights["inception"])
    stripes = (torch.arange(598) % 2 * 255).byte().expand(1, 3, 598, 598)  # without antialiasing all black or all white
    gray = torch.full((1, 3, 299, 299), 128, dtype=torch.uint8)
    black = torch.zeros(1, 3, 299, 299, dtype=torch.uint8)
    near, far = (
        (extractor.features(stripes.contiguous()) - extractor.features(other)).norm() for other in (gray, black)
    )
    assert near < 0.3 * far


def test_weights_may_be_safetensors_and_come_from_the_environment(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, weights: dict[str, str]
) -> None:
    monkeypatch.setenv(VARIABLE, random_weights("dinov2", tmp_path, "safetensors"))
    here, there = load_extractor("dinov2"), load_extractor("dinov2", weights=weights["dinov2"])
    torch.testing.assert_close(here.features(images(32)), there.features(images(32)))
    assert here.digest != there.digest


@pytest.mark.parametrize("name", NEED_WEIGHTS)
def test_a_net_without_weights_says_what_to_do_and_fetches_nothing(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("GENXFER_CACHE", str(tmp_path))
    monkeypatch.delenv(VARIABLE, raising=False)
    monkeypatch.setattr("urllib.request.urlopen", lambda *_, **__: pytest.fail("something was fetched"))
    with pytest.raises(ParameterError) as error:
        load_extractor(name)
    assert all(
        text in str(error.value)
        for text in (name, "never downloaded unasked", VARIABLE, "extractor_weights", "--weights")
    )
    assert list(tmp_path.iterdir()) == []


def test_weights_of_another_net_are_refused(weights: dict[str, str]) -> None:
    for name, other in (("inception", "dinov2"), ("dinov2", "inception")):
        with pytest.raises(DataError, match="are not those of"):
            load_extractor(name, weights=weights[other])


def test_a_file_that_is_not_the_fid_network_is_refused_unless_its_digest_is_named(weights: dict[str, str]) -> None:
    location = weights["inception"]
    with pytest.raises(DataError, match=PUBLISHED["inception"].sha256):
        find_weights("inception", str(file_of(location)))
    assert find_weights("inception", location).digest == location.partition("=")[2]


def test_a_file_that_would_run_code_is_refused_and_runs_none(tmp_path: Path) -> None:
    class Trap:
        def __reduce__(self) -> tuple:
            return (Path.touch, (tmp_path / "sprung",))

    torch.save({"weights": Trap()}, tmp_path / "trap.pth")
    with pytest.raises(DataError, match="read as data alone"):
        load_extractor("dinov2", weights=str(tmp_path / "trap.pth"))
    assert not (tmp_path / "sprung").exists()


def test_without_torch_fidelity_inception_says_what_to_install(
    weights: dict[str, str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(EXTRACTOR_PACKAGES, "inception", ("torch-fidelity-that-is-not-there",))
    with pytest.raises(GenxferError, match=r"torch-fidelity.*pip install -e '\.\[inception\]'"):
        load_extractor("inception", weights=weights["inception"])
