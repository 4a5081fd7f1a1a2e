"""Taking over: what fits is copied, the image side changes between gray and colour, the rest is listed and counted."""

import copy
import json
from typing import Any

import pytest
import torch
from PIL import Image
from torch import Tensor

from genxfer.errors import TrainingError
from genxfer.models.config import FAMILIES, family_config
from genxfer.models.family import Family, ImageShape, build_family, sample
from genxfer.training.config import TrainConfig
from genxfer.transfer.config import CDC, EWC, L2SP, Freeze, FreezeD, Gradual, MethodConfig, Miner, ScaleShift
from genxfer.transfer.load import LUMA, best_size, check_enough, check_fixed, check_whole, compare, take_over
from tests.models.as_trained import as_trained

CONVOLUTIONAL = ("dcgan", "vae", "flow")


def family_of(name: str, channels: int = 1, resolution_px: int = 16, seed: int = 0, **keys: Any) -> Family:
    """A small family whose every layer answers with something, as after training."""
    shape = ImageShape(1, 28) if name.startswith("mlp") else ImageShape(channels, resolution_px)
    sizes = {"width": 8} | ({"sample_steps": 2} if name == "flow" else {"latent_dim": 4})
    family = build_family(family_config({"family": name, **sizes, **keys}), shape, seed)
    return as_trained(family, seed + 1)


def described(family: Family) -> dict[str, Any]:
    """What snapshot.json says of a family."""
    return {
        "family": family.config.family,
        "model": family.config.model_dump(mode="json"),
        "channels": family.shape.channels,
        "resolution_px": family.shape.resolution_px,
    }


def load(family: Family, source: Family) -> Any:
    report = take_over(family, source.nets.state_dict(), described(source))
    family.nets.eval()
    return report


def answers(family: Family, images: Tensor) -> Tensor:
    """What the family's image-reading net says of `images` [N C H W]."""
    nets = family.nets
    with torch.no_grad():
        if "unet" in nets:
            result: Tensor = nets["unet"](images, torch.linspace(0.1, 0.9, len(images)))
        else:
            result = nets["discriminator" if "discriminator" in nets else "encoder"](images)
    return result


def unsquashed(family: Family) -> Tensor:
    """Eight images as they are before the tanh or sigmoid that ends the net; in double, as squashing rounds."""
    noise = torch.randn(8, 4, dtype=torch.float64, generator=torch.Generator().manual_seed(5))
    with torch.no_grad():
        images = family.decode(copy.deepcopy(family.nets).double(), noise)
    return torch.atanh(images) if family.name == "dcgan" else torch.logit(images / 2 + 0.5)


@pytest.mark.parametrize("name", FAMILIES)
def test_the_same_model_is_taken_over_to_the_last_tensor(name: str) -> None:
    source, family = family_of(name, seed=3), family_of(name)
    report = load(family, source)
    assert report.exact
    assert report.share == 1
    assert {net.net for net in report.nets} == set(family.nets) - set(family.fitted_nets)
    assert len(str(report).splitlines()) == 1
    for tensor, expected in zip(family.nets.state_dict().values(), source.nets.state_dict().values(), strict=True):
        assert torch.equal(tensor, expected)


@pytest.mark.parametrize("name", CONVOLUTIONAL)
def test_a_gray_model_made_a_colour_one_answers_a_gray_image_as_before(name: str) -> None:
    source, family = family_of(name, 1, seed=3), family_of(name, 3)
    report = load(family, source)
    gray = torch.rand(4, 1, 16, 16) * 2 - 1
    torch.testing.assert_close(
        answers(family, gray.expand(-1, 3, -1, -1)),
        answers(source, gray).expand_as(answers(family, gray.expand(-1, 3, -1, -1))),
        atol=1e-5,
        rtol=0,
    )
    assert report.share == 1
    assert not report.exact
    assert report.converted
    assert not report.other_shape


@pytest.mark.parametrize("name", ["dcgan", "vae"])
def test_a_gray_model_made_a_colour_one_draws_the_same_gray_images(name: str) -> None:
    source, family = family_of(name, 1, seed=3), family_of(name, 3)
    load(family, source)
    drawn, expected = sample(family, family.nets, 8, seed=5), sample(source, source.nets, 8, seed=5)
    assert expected.std() > 0.01
    for channel in range(3):
        torch.testing.assert_close(drawn[:, channel : channel + 1], expected, atol=1e-6, rtol=0)


@pytest.mark.parametrize("name", CONVOLUTIONAL)
def test_a_colour_model_made_a_gray_one_answers_a_gray_image_as_before(name: str) -> None:
    source, family = family_of(name, 3, seed=3), family_of(name, 1)
    load(family, source)
    gray = torch.rand(4, 1, 16, 16) * 2 - 1
    expected = answers(source, gray.expand(-1, 3, -1, -1))
    if name == "flow":  # its answer is an image: the gray version of the colour one
        expected = (expected * torch.tensor(LUMA).view(1, 3, 1, 1)).sum(dim=1, keepdim=True)
    torch.testing.assert_close(answers(family, gray), expected, atol=1e-5, rtol=0)


@pytest.mark.parametrize("name", ["dcgan", "vae"])
def test_a_colour_model_made_a_gray_one_draws_the_gray_version(name: str) -> None:
    source, family = family_of(name, 3, seed=3), family_of(name, 1)
    load(family, source)
    drawn, colours = unsquashed(family), unsquashed(source)
    expected = (colours * torch.tensor(LUMA).view(1, 3, 1, 1)).sum(dim=1, keepdim=True)
    assert (colours[:, 0] - colours[:, 1]).abs().max() > 0.01
    torch.testing.assert_close(drawn, expected, atol=1e-5, rtol=1e-4, check_dtype=False)


def test_gray_is_what_gray_training_images_are_made_of() -> None:
    for channel, weight in enumerate(LUMA):
        pixel = tuple(255 if channel == place else 0 for place in range(3))
        assert Image.new("RGB", (1, 1), pixel).convert("L").getpixel((0, 0)) == pytest.approx(255 * weight, abs=0.5)


@pytest.mark.parametrize("name", CONVOLUTIONAL)
def test_there_and_back_is_the_model_one_began_with(name: str) -> None:
    source, colour, back = family_of(name, 1, seed=3), family_of(name, 3), family_of(name, 1)
    load(colour, source)
    load(back, colour)
    for tensor, expected in zip(back.nets.state_dict().values(), source.nets.state_dict().values(), strict=True):
        torch.testing.assert_close(tensor, expected, atol=1e-6, rtol=1e-5)


@pytest.mark.parametrize("name", ["dcgan", "vae"])
def test_twice_the_resolution_with_half_the_width_keeps_every_inner_block(name: str) -> None:
    """Only the two blocks at the image are others: the new one, and the one that used to stand there."""
    source, family = family_of(name, 1, 32, seed=3, width=16), family_of(name, 1, 64, width=8)
    before = {key: tensor.clone() for key, tensor in family.nets.state_dict().items()}
    report = load(family, source)
    fresh = {key.split(".")[1] for key in (*report.missing, *(tensor.name for tensor in report.other_shape))}
    assert fresh == {"block_64px", "block_32px"}
    for key, tensor in family.nets.state_dict().items():
        kept = key in report.missing or key in {other.name for other in report.other_shape}
        assert torch.equal(tensor, before[key] if kept else source.nets.state_dict()[key]), key


@pytest.mark.parametrize("source_px", [64, 128])
@pytest.mark.parametrize("name", CONVOLUTIONAL)
def test_a_model_of_twice_a_large_resolution_is_told_the_size_that_keeps_the_inner_blocks(
    name: str, source_px: int
) -> None:
    """With half the width alone, the deepest blocks would have half the channels."""
    source, family = family_of(name, 1, source_px, width=16), family_of(name, 1, 2 * source_px, width=16)
    size, share = best_size(family, source.nets.state_dict(), described(source))
    most = source.config.block_channels(9)[-1]  # type: ignore[attr-defined]
    assert size == {"width": 8, "max_channels": most}
    assert share > 0.85
    fitting = family_of(name, 1, 2 * source_px, **size)
    assert load(fitting, source).share == pytest.approx(share)
    with pytest.raises(TrainingError, match=rf"with model\.width=8 and model\.max_channels={most}, [89]\d"):
        check_enough(load(family, source), 0.9, family, source.nets.state_dict(), described(source))


@pytest.mark.parametrize("name", CONVOLUTIONAL)
def test_the_shares_add_up(name: str) -> None:
    source, family = family_of(name, 3, 32, width=16), family_of(name, 1, 16)
    report = compare(family, source.nets.state_dict())
    fitted = tuple(f"{net}." for net in family.fitted_nets)
    every = {key: tensor.numel() for key, tensor in family.nets.state_dict().items()}
    sizes = {key: numel for key, numel in every.items() if not key.startswith(fitted)}
    taken = sum(sizes.get(key, 0) for key in (*report.matched, *report.converted))
    assert sum(net.values for net in report.nets) == sum(sizes.values())
    assert report.share == pytest.approx(taken / sum(sizes.values()))
    listed = (*report.matched, *report.converted, *report.missing, *(tensor.name for tensor in report.other_shape))
    assert sorted(listed) == sorted(every)
    assert set(report.unused) == set(source.nets.state_dict()) - set(every)


@pytest.mark.parametrize("name", ["dcgan", "vae"])
def test_too_little_names_the_width_that_would_fit_and_what_it_gives(name: str) -> None:
    source, family = family_of(name, 1, 32, width=16), family_of(name, 1, 64, width=16)
    weights = source.nets.state_dict()
    report = load(family, source)
    with pytest.raises(TrainingError) as error:
        check_enough(report, 0.5, family, weights, described(source))
    message = str(error.value)
    assert "finetune.min_taken_over = 0.5" in message
    assert "dataset.resolution_px (32 there, 64 here)" in message
    size, share = best_size(family, weights, described(source))
    assert size == {"width": 8}
    assert "with model.width=8, " in message
    fitting = load(family_of(name, 1, 64, width=8), source)
    assert fitting.share == pytest.approx(share)
    check_enough(fitting, 0.5, family, weights, described(source))


def test_a_threshold_of_the_share_itself_is_passed_and_is_what_the_message_offers() -> None:
    source, family = family_of("dcgan", 1, 32), family_of("dcgan", 1, 64)
    report = load(family, source)
    check_enough(report, report.share, family, source.nets.state_dict(), described(source))
    with pytest.raises(TrainingError) as error:
        check_enough(report, 1, family, source.nets.state_dict(), described(source))
    offered = float(str(error.value).rpartition("finetune.min_taken_over=")[2].rstrip("."))
    check_enough(report, offered, family, source.nets.state_dict(), described(source))


def test_another_family_is_refused_and_nothing_is_changed() -> None:
    source, family = family_of("dcgan"), family_of("vae")
    before = {key: tensor.clone() for key, tensor in family.nets.state_dict().items()}
    with pytest.raises(TrainingError, match=r"of the family 'dcgan', model\.family is 'vae'.*Set model\.family=dcgan"):
        load(family, source)
    assert all(torch.equal(before[key], tensor) for key, tensor in family.nets.state_dict().items())


def test_random_weights_that_would_never_move_are_refused() -> None:
    source, family, last_step = family_of("dcgan", 1, 32, width=16), family_of("dcgan", 1, 64), 2000
    report = load(family, source)
    fixed = r"holds the layer group 'block_64px' of the discriminator fixed(.|\n)*Set finetune"
    with pytest.raises(
        TrainingError, match=rf"^finetune\.freeze\.discriminator is 1, which {fixed}\.freeze\.disc.*=0\."
    ):
        check_fixed(report, family, Freeze(freeze={"discriminator": 1}), last_step)
    with pytest.raises(TrainingError, match=rf"^finetune\.layers is 2, which {fixed}\.layers=0\."):
        check_fixed(report, family, FreezeD(layers=2), last_step)
    check_fixed(report, family, Freeze(freeze={"generator": 0}), last_step)
    group = r"the layer group '(block_64px|image)' of the (generator|decoder|unet) fixed(.|\n)*Set finetune\.method"
    for name in CONVOLUTIONAL:
        source, family = family_of(name, 1, 32, width=16), family_of(name, 1, 64)
        with pytest.raises(TrainingError, match=rf"'scale_shift', which holds the filters of {group}"):
            check_fixed(load(family, source), family, ScaleShift(), last_step)
    source, family = family_of("dcgan", 1, 32, width=16), family_of("dcgan", 1, 64, miner_width=8)
    with pytest.raises(TrainingError, match=rf"'miner', which holds {group}"):
        check_fixed(load(family, source), family, Miner(), last_step)
    same = family_of("dcgan", 1, 32, width=16)
    check_fixed(load(same, source), same, ScaleShift(), last_step)
    check_fixed(load(same, source), same, Freeze(freeze={"discriminator": 4}), last_step)


def test_random_weights_that_would_thaw_too_late_are_refused_with_when_they_have_to() -> None:
    """Of 2,001 to 2,016 images in batches of 16 the last step begins at 2,000."""
    last_step = TrainConfig(kimg=2.016, batch=16).last_step
    assert last_step == TrainConfig(kimg=2.001, batch=16).last_step == 2000
    source, family = family_of("dcgan", 1, 32, width=16), family_of("dcgan", 1, 64)
    report = load(family, source)
    group = r"the layer group 'block_64px' of the \w+ fixed to the end"
    advice = rf"^finetune\.thaw_every_kimg is 0\.501, which holds {group}(.|\n)*Set finetune\.thaw_every_kimg=0\.5\.$"
    with pytest.raises(TrainingError, match=advice):
        check_fixed(report, family, Gradual(freeze={"discriminator": 4}, thaw_every_kimg=0.501), last_step)
    check_fixed(report, family, Gradual(freeze={"discriminator": 4}, thaw_every_kimg=0.5), last_step)
    with pytest.raises(
        TrainingError, match=r"freeze\.discriminator is 4 and .* is 1, (.|\n)*freeze\.discriminator=0\."
    ):
        check_fixed(report, family, Gradual(freeze={"discriminator": 4}), 3)  # no time to thaw that often
    mined = family_of("dcgan", 1, 64, miner_width=8)
    advice = rf"^finetune\.thaw_after_kimg is 2\.001, which holds {group}(.|\n)*Set finetune\.thaw_after_kimg=2\.$"
    with pytest.raises(TrainingError, match=advice):
        check_fixed(load(mined, source), mined, Miner(thaw_after_kimg=2.001), last_step)
    check_fixed(load(mined, source), mined, Miner(thaw_after_kimg=2), last_step)


@pytest.mark.parametrize("method", [EWC(), CDC()])
def test_a_method_that_looks_at_the_source_models_samples_needs_all_that_draws_them(method: MethodConfig) -> None:
    source, larger = family_of("dcgan", 1, 32, width=16), family_of("dcgan", 1, 64)
    with pytest.raises(
        TrainingError, match=rf"method is '{method.method}'.*would be noise(.|\n)*such as l2_sp or full"
    ):
        check_whole(load(larger, source), larger, method)
    check_whole(load(larger, source), larger, L2SP())
    colour = family_of("dcgan", 3, 32, width=16)
    check_whole(load(colour, source), colour, method)


def test_the_report_is_json_that_names_every_tensor() -> None:
    report = load(family_of("dcgan", 3, 32, width=16), family_of("dcgan", 1, 16))
    facts = json.loads(json.dumps(report.facts()))
    assert facts["share"] == report.share
    assert facts["converted"] == list(report.converted)
    assert facts["other_shape"][0]["source"] == list(report.other_shape[0].source)
