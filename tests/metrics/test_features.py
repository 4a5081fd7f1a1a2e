"""The feature extractors: the real weights in the real net, the same numbers whatever the batch."""

import hashlib

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from sklearn.datasets import load_digits, load_sample_image
from torch import Tensor

from genxfer.errors import DataError, GenxferError
from genxfer.metrics import EXTRACTORS, load_extractor, load_metric
from genxfer.metrics.features import Extractor, Lite0, lite0_classifier, lite0_weights_path


@pytest.fixture(scope="module")
def extractors() -> dict[str, Extractor]:
    return {name: load_extractor(name) for name in EXTRACTORS}


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


def test_lite0_is_frozen_and_in_eval_mode(extractors: dict[str, Extractor], digits: Tensor) -> None:
    lite0 = extractors["lite0"]
    assert isinstance(lite0, Lite0)
    assert not any(module.training for module in lite0.net.modules())
    assert not any(parameter.requires_grad for parameter in lite0.net.parameters())
    before = {name: value.clone() for name, value in lite0.net.state_dict().items()}
    assert not lite0.features(digits[:4]).requires_grad
    assert all(torch.equal(value, before[name]) for name, value in lite0.net.state_dict().items())


@pytest.mark.parametrize("name", EXTRACTORS)
def test_features_do_not_depend_on_the_batch(name: str, extractors: dict[str, Extractor], digits: Tensor) -> None:
    extractor = extractors[name]
    expected = extractor.features(digits)
    assert expected.dtype == torch.float32
    assert expected.shape[0] == len(digits)
    for batch in (7, 64):
        torch.testing.assert_close(extractor.features(digits, batch), expected, rtol=1e-4, atol=2e-5)


def test_kid_and_fid_do_not_depend_on_the_batch_of_the_features(
    extractors: dict[str, Extractor], digits: Tensor
) -> None:
    for name in ("kid", "fid"):
        values = []
        for batch in (5, 64):
            features = extractors["lite0"].features(digits, batch)
            values.append(load_metric(name)(features[:40], features[40:]).value)
        assert values == pytest.approx([values[0]] * 2, rel=1e-4)


@pytest.mark.parametrize("name", EXTRACTORS)
def test_features_do_not_depend_on_the_order_of_images(
    name: str, extractors: dict[str, Extractor], digits: Tensor
) -> None:
    forward, backward = (extractors[name].features(images) for images in (digits[:40], digits[:40].flip(0)))
    torch.testing.assert_close(backward.flip(0), forward, rtol=1e-4, atol=2e-5)


def test_gray_images_have_the_features_of_the_same_images_in_rgb(
    extractors: dict[str, Extractor], digits: Tensor
) -> None:
    lite0 = extractors["lite0"]
    torch.testing.assert_close(lite0.features(digits[:8].expand(-1, 3, -1, -1)), lite0.features(digits[:8]))


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
    with pytest.raises(DataError, match="takes uint8 images"):
        extractors["pixels"].features(images)


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
def test_a_gpu_gives_the_features_of_the_cpu(extractors: dict[str, Extractor], digits: Tensor) -> None:
    on_gpu = load_extractor("lite0", "cuda").features(digits)
    torch.testing.assert_close(on_gpu, extractors["lite0"].features(digits), rtol=1e-3, atol=1e-4)
