"""The feature extractors: the real weights in the real net, the same numbers whatever the batch."""

import hashlib

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from sklearn.datasets import load_digits, load_sample_image
from torch import Tensor

from genxfer.errors import DataError, GenxferError
from genxfer.metrics import EXTRACTORS, NEED_WEIGHTS, load_extractor, load_metric
from genxfer.metrics.features import Extractor
from genxfer.metrics.lite0 import Lite0, lite0_classifier, lite0_weights_path
from genxfer.metrics.sets import FeatureSets
from tests.metrics.random_weights import random_weights


@pytest.fixture(scope="module")
def extractors(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Extractor]:
    """Every extractor, made when it is asked for, those without weights of their own with random ones."""
    folder = tmp_path_factory.mktemp("weights")

    class Made(dict[str, Extractor]):
        def __missing__(self, name: str) -> Extractor:
            self[name] = load_extractor(name, weights=random_weights(name, folder) if name in NEED_WEIGHTS else None)
            return self[name]

    return Made()


def few(name: str, images: Tensor) -> Tensor:
    """As many images as the net is fast enough for."""
    return images[:5] if name in NEED_WEIGHTS else images[:40]


@pytest.fixture(scope="module")
def digits() -> Tensor:
    images = np.round(load_digits().images[:80] * (255 / 16)).astype(np.uint8)
    return torch.from_numpy(images.repeat(4, axis=1).repeat(4, axis=2))[:, None]


def photograph(name: str, size_px: int) -> Tensor:
    """A square crop of one of the two photographs that scikit-learn carries, float [1 3 H W] in [0, 1]."""
    image = torch.from_numpy(load_sample_image(name).copy()).permute(2, 0, 1)[None, :, :, 106:533].float() / 255
    return F.interpolate(image, (size_px, size_px), mode="bicubic", antialias=True).clamp(0, 1)


def stored_forward(weights: dict[str, Tensor], x: Tensor) -> Tensor:
    """EfficientNet-Lite0 up to its pooled features, written out over the names of the package's own file."""

    def convolve(x: Tensor, name: str, stride: int = 1) -> Tensor:
        kernel = weights[f"{name}.weight"]
        size, out = kernel.shape[-1], -(-x.shape[-1] // stride)
        missing = max((out - 1) * stride + size - x.shape[-1], 0)  # TensorFlow's SAME: the odd pixel at the far side
        x = F.pad(x, (missing // 2, missing - missing // 2) * 2)
        return F.conv2d(x, kernel, stride=stride, groups=x.shape[1] if kernel.shape[1] == 1 else 1)

    def normalize(x: Tensor, name: str) -> Tensor:
        mean, variance, scale, shift = (
            weights[f"{name}.{part}"][:, None, None] for part in ("running_mean", "running_var", "weight", "bias")
        )
        return (x - mean) / (variance + 1e-3).sqrt() * scale + shift

    x = F.relu6(normalize(convolve(x, "_conv_stem", 2), "_bn0"))
    for index, stride in enumerate([1, 2, 1, 2, 1, 2, 1, 1, 1, 1, 1, 2, 1, 1, 1, 1]):
        block, y = f"_blocks.{index}", x
        if f"{block}._expand_conv.weight" in weights:
            y = F.relu6(normalize(convolve(y, f"{block}._expand_conv"), f"{block}._bn0"))
        y = F.relu6(normalize(convolve(y, f"{block}._depthwise_conv", stride), f"{block}._bn1"))
        y = normalize(convolve(y, f"{block}._project_conv"), f"{block}._bn2")
        x = x + y if x.shape == y.shape else y
    return F.relu6(normalize(convolve(x, "_conv_head"), "_bn1")).mean(dim=(2, 3))


def test_lite0_features_equal_a_forward_written_out_over_the_stored_weights(extractors: dict[str, Extractor]) -> None:
    images = torch.cat([photograph(name, 96) for name in ("china.jpg", "flower.jpg")])
    weights = torch.load(lite0_weights_path(), weights_only=True)
    quantized = (images * 255).round()
    expected = stored_forward(weights, quantized / 127.5 - 1)
    torch.testing.assert_close(extractors["lite0"].features(quantized.byte()), expected, rtol=1e-4, atol=1e-4)


def test_the_lite0_classifier_recognises_photographs() -> None:
    classifier = lite0_classifier(lite0_weights_path())
    for name, wanted in (("china.jpg", 698), ("flower.jpg", 985)):  # ImageNet's palace and daisy
        assert classifier(photograph(name, 224) * 2 - 1).argmax().item() == wanted


def test_lite0_is_given_the_value_range_its_first_layer_was_trained_on() -> None:
    classifier = lite0_classifier(lite0_weights_path())
    images = torch.cat([photograph(name, 224) for name in ("china.jpg", "flower.jpg")])
    first = classifier.get_submodule("conv_stem")(images * 2 - 1)
    stored = classifier.get_submodule("bn1").running_var
    ratio = (first.var(dim=(0, 2, 3)) / stored).nanmedian().item()
    assert 0.5 < ratio < 2  # the usual ImageNet mean and standard deviation would give 5.6


def test_weights_that_do_not_fit_are_refused(tmp_path) -> None:
    stored = torch.load(lite0_weights_path(), weights_only=True)
    stored["_fc.bias"] = stored["_fc.bias"][:10]
    torch.save(stored, tmp_path / "other.pth")
    with pytest.raises(GenxferError, match=r"do not fit.*requirements\.lock"):
        lite0_classifier(tmp_path / "other.pth")


def test_the_lite0_digest_is_that_of_the_weights_file(extractors: dict[str, Extractor]) -> None:
    assert extractors["lite0"].digest == hashlib.sha256(lite0_weights_path().read_bytes()).hexdigest()
    # The package names the file by the beginning of its digest.
    assert extractors["lite0"].digest[:8] in lite0_weights_path().name


def test_lite0_features_equal_those_of_timm(extractors: dict[str, Extractor], digits: Tensor) -> None:
    classifier = lite0_classifier(lite0_weights_path())
    resized = F.interpolate(digits[:8].float() / 255, (96, 96), mode="bicubic", antialias=True).clamp(0, 1)
    expected = classifier.forward_head(
        classifier.forward_features(resized.expand(-1, 3, -1, -1) * 2 - 1), pre_logits=True
    )
    torch.testing.assert_close(extractors["lite0"].features(digits[:8]), expected, rtol=1e-4, atol=1e-4)


NETS = [name for name in EXTRACTORS if name != "pixels"]


@pytest.mark.parametrize("name", NETS)
def test_a_net_is_frozen_and_in_eval_mode(name: str, extractors: dict[str, Extractor], digits: Tensor) -> None:
    extractor = extractors[name]
    assert extractor.net is not None
    assert not any(module.training for module in extractor.net.modules())
    assert not any(parameter.requires_grad for parameter in extractor.net.parameters())
    before = {name: value.clone() for name, value in extractor.net.state_dict().items()}
    assert not extractor.features(digits[:4]).requires_grad
    assert all(torch.equal(value, before[name]) for name, value in extractor.net.state_dict().items())


@pytest.mark.parametrize("name", NETS)
def test_a_net_that_was_left_in_training_mode_is_caught(
    name: str, extractors: dict[str, Extractor], digits: Tensor
) -> None:
    net = extractors[name].net
    assert net is not None
    left = list(net.modules())[-1]  # one part of it is enough
    left.train()
    try:
        with pytest.raises(GenxferError, match="in training mode"):
            extractors[name].features(digits[:4])
    finally:
        net.eval()


def test_lite0_has_no_batch_norm_that_could_be_in_training_mode(extractors: dict[str, Extractor]) -> None:
    assert isinstance(extractors["lite0"], Lite0)
    assert extractors["lite0"].net is not None
    assert not any(isinstance(module, torch.nn.BatchNorm2d) for module in extractors["lite0"].net.modules())


@pytest.mark.parametrize("name", EXTRACTORS)
def test_features_do_not_depend_on_the_batch(name: str, extractors: dict[str, Extractor], digits: Tensor) -> None:
    extractor, some = extractors[name], few(name, digits)
    expected = extractor.features(some)
    assert expected.dtype == torch.float32
    assert expected.shape[0] == len(some)
    for batch in (3, 40):
        torch.testing.assert_close(extractor.features(some, batch), expected, rtol=1e-4, atol=2e-5)


@pytest.mark.parametrize("name", EXTRACTORS)
def test_features_are_the_same_bits_for_any_number_of_threads(
    name: str, extractors: dict[str, Extractor], digits: Tensor
) -> None:
    before = torch.get_num_threads()
    found = []
    for threads in (1, 2, 3):
        torch.set_num_threads(threads)
        found.append(extractors[name].features(few(name, digits), 2))
        assert torch.get_num_threads() == threads
    torch.set_num_threads(before)
    assert torch.equal(found[0], found[1])
    assert torch.equal(found[0], found[2])


@pytest.mark.parametrize("name", NETS)
def test_single_images_of_mixed_sizes_have_the_features_that_each_has_alone(
    name: str, extractors: dict[str, Extractor]
) -> None:
    sizes = ((32, 32), (32, 32), (310, 40), (20, 400), (32, 32))
    photos = [F.interpolate(photograph("china.jpg", 64), size).mul(255).byte()[0] for size in sizes]
    expected = torch.cat([extractors[name].features(photo[None]) for photo in photos])
    torch.testing.assert_close(extractors[name].features(iter(photos), 4), expected, rtol=1e-4, atol=2e-5)


@pytest.mark.parametrize("batch", [1, 2])
def test_pixels_of_mixed_sizes_are_refused_within_a_batch_and_across(
    batch: int, extractors: dict[str, Extractor]
) -> None:
    images = [torch.zeros(1, size, size, dtype=torch.uint8) for size in (8, 9)]
    with pytest.raises(DataError, match="Give them one size"):
        extractors["pixels"].features(images, batch)


def test_kid_and_fid_do_not_depend_on_the_batch_of_the_features(
    extractors: dict[str, Extractor], digits: Tensor
) -> None:
    for name in ("kid", "fid"):
        values = []
        for batch in (5, 64):
            features = extractors["lite0"].features(digits, batch)
            values.append(load_metric(name)(FeatureSets(features[:40], features[40:])).numbers[name].value)
        assert values == pytest.approx([values[0]] * 2, rel=1e-4)


@pytest.mark.parametrize("name", EXTRACTORS)
def test_features_do_not_depend_on_the_order_of_images(
    name: str, extractors: dict[str, Extractor], digits: Tensor
) -> None:
    forward, backward = (extractors[name].features(images) for images in (few(name, digits), few(name, digits).flip(0)))
    torch.testing.assert_close(backward.flip(0), forward, rtol=1e-4, atol=2e-5)


@pytest.mark.parametrize("name", NETS)
def test_gray_images_have_the_features_of_the_same_images_in_rgb(
    name: str, extractors: dict[str, Extractor], digits: Tensor
) -> None:
    gray, rgb = (extractors[name].features(images) for images in (digits[:4], digits[:4].expand(-1, 3, -1, -1)))
    torch.testing.assert_close(rgb, gray, rtol=1e-4, atol=2e-5)


@pytest.mark.parametrize(
    "images",
    [
        torch.zeros(2, 1, 8, 8),
        torch.zeros(2, 2, 8, 8, dtype=torch.uint8),
        torch.zeros(1, 8, 8, dtype=torch.uint8),
        torch.zeros(0, 1, 8, 8, dtype=torch.uint8),
    ],
)
def test_other_arrays_than_images_are_refused(images: Tensor, extractors: dict[str, Extractor]) -> None:
    with pytest.raises(DataError, match=r"takes uint8 images|was given no images"):
        extractors["pixels"].features(images)


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
def test_a_gpu_gives_the_features_of_the_cpu(extractors: dict[str, Extractor], digits: Tensor) -> None:
    on_gpu = load_extractor("lite0", "cuda").features(digits)
    torch.testing.assert_close(on_gpu, extractors["lite0"].features(digits), rtol=1e-3, atol=1e-4)
