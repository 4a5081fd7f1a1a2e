from collections.abc import Callable

import pytest
import torch
from torch import Tensor
from torch.autograd import gradcheck, gradgradcheck

from genxfer.data.augment import OPERATIONS, augment
from genxfer.noise import Noise

POLICY = ("color", "translation", "cutout")


def generator(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def noise(seed: int = 0) -> Noise:
    return Noise(generator(seed))


def images(n: int = 8, channels: int = 3, side_px: int = 16) -> Tensor:
    return torch.rand(n, channels, side_px, side_px, generator=generator(99)) * 2 - 1


def test_an_empty_policy_does_nothing_and_draws_nothing() -> None:
    real, source = images(), generator()
    state = source.get_state()
    assert augment(real, (), Noise(source)) is real
    assert torch.equal(source.get_state(), state)


@pytest.mark.parametrize("policy", [POLICY, *((name,) for name in POLICY)])
def test_the_noise_decides_and_nothing_else(policy: tuple[str, ...]) -> None:
    torch.manual_seed(1)
    first = augment(images(), policy, noise())
    torch.manual_seed(2)
    assert torch.equal(first, augment(images(), policy, noise()))
    assert not torch.equal(first, augment(images(), policy, noise(1)))


def test_sets_of_images_have_their_turns_to_draw() -> None:
    real, fake = images(), images().flip(0)
    together = augment(torch.cat([real, fake]), ("translation",), noise(), sets=2)
    turns = noise()
    apart = [augment(of_set, ("translation",), turns) for of_set in (real, fake)]
    assert torch.equal(together, torch.cat(apart))


@pytest.mark.parametrize("policy", [POLICY, *((name,) for name in POLICY)])
def test_each_image_is_changed_in_its_own_way(policy: tuple[str, ...]) -> None:
    same = images(1).expand(16, -1, -1, -1)
    changed = augment(same, policy, noise())
    assert len({tuple(image.flatten().tolist()) for image in changed}) >= 8  # of 25 translations


@pytest.mark.parametrize("policy", [POLICY, *((name,) for name in POLICY)])
@pytest.mark.parametrize("channels", [1, 3])
@pytest.mark.parametrize("probability", [0.5, 1.0])
def test_gradients_are_right_once_and_twice(policy: tuple[str, ...], channels: int, probability: float) -> None:
    def augmented(x: Tensor) -> Tensor:
        return augment(x, policy, noise(5), probability)

    def gradient(x: Tensor) -> Tensor:
        return torch.autograd.grad(augmented(x).square().sum(), x, create_graph=True)[0]

    def slope(function: Callable[[Tensor], Tensor], x: Tensor, direction: Tensor) -> Tensor:
        return (function(x + 1e-4 * direction) - function(x - 1e-4 * direction)) / 2e-4

    real = images(3, channels, 8).double().requires_grad_()
    direction = images(3, channels, 8).double().flip(-1)
    measured = slope(lambda x: augmented(x).square().sum(), real, direction)
    torch.testing.assert_close((gradient(real) * direction).sum(), measured)
    (penalty_gradient,) = torch.autograd.grad(gradient(real).square().sum(), real)
    measured = slope(lambda x: gradient(x).square().sum(), real, direction)
    torch.testing.assert_close((penalty_gradient * direction).sum(), measured)


@pytest.mark.parametrize("name", POLICY)
def test_by_chance_an_operation_falls_on_some_images_and_leaves_the_others_alone(name: str) -> None:
    real = images(400)
    changed = augment(real, (name,), noise(), probability=0.3)
    untouched = torch.tensor([torch.equal(before, after) for before, after in zip(real, changed, strict=True)])
    likely = 0.3 * (24 / 25 if name == "translation" else 1)  # one of the 25 shifts is none
    assert 1 - untouched.float().mean() == pytest.approx(likely, abs=0.07)
    always = augment(real, (name,), noise())
    assert torch.equal(changed[~untouched], always[~untouched])


def test_operations_fall_on_an_image_independently_of_each_other() -> None:
    changed = augment(torch.full((400, 1, 16, 16), 0.5), ("color", "cutout"), noise(), probability=0.5).flatten(1)
    coloured, cut = ~(changed == 0.5).any(1), (changed == 0).any(1)
    counts = [int((coloured & cut).sum()), int((coloured & ~cut).sum()), int((~coloured & cut).sum())]
    assert counts == pytest.approx([100, 100, 100], abs=30)


def test_a_probability_of_one_is_always_and_of_zero_never() -> None:
    real = images()
    assert torch.equal(augment(real, POLICY, noise(), probability=1.0), augment(real, POLICY, noise()))
    assert augment(real, POLICY, noise(), probability=0.0) is real


@pytest.mark.parametrize("layout", [torch.contiguous_format, torch.channels_last])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_type_and_layout_are_kept_and_do_not_change_the_result(layout: torch.memory_format, dtype: torch.dtype) -> None:
    changed = augment(images().to(dtype).contiguous(memory_format=layout), POLICY, noise())
    assert changed.dtype == dtype
    assert changed.is_contiguous(memory_format=layout)
    tolerance = 1e-6 if dtype == torch.float32 else 0.05
    torch.testing.assert_close(changed.float(), augment(images(), POLICY, noise()), atol=tolerance, rtol=0)


@pytest.mark.parametrize("channels", [1, 3])
def test_color_is_brightness_then_saturation_then_contrast(channels: int) -> None:
    real = images(8, channels)
    draws = torch.rand(8, 3, generator=generator())
    brightness, saturation, contrast = (draws[:, i].view(8, 1, 1, 1) for i in range(3))
    step = real + brightness - 0.5
    mean = step.mean(1, keepdim=True)
    step = (step - mean) * saturation * 2 + mean
    mean = step.mean((1, 2, 3), keepdim=True)
    expected = (step - mean) * (contrast + 0.5) + mean
    torch.testing.assert_close(augment(real, ("color",), noise()), expected, atol=1e-5, rtol=0)


def test_translation_moves_whole_pixels_by_up_to_an_eighth() -> None:
    real = images(200, 2, 16) + 2  # no pixel is 0, so what came in from outside shows
    moved = augment(real, ("translation",), noise())
    shifts = set()
    for before, after in zip(real, moved, strict=True):
        rows, columns = torch.where(after[0] != 0)
        height, width = rows.max() - rows.min() + 1, columns.max() - columns.min() + 1
        down = 16 - int(height) if rows.min() > 0 else int(height) - 16
        right = 16 - int(width) if columns.min() > 0 else int(width) - 16
        there = after[:, max(down, 0) : 16 + min(down, 0), max(right, 0) : 16 + min(right, 0)]
        here = before[:, max(-down, 0) : 16 + min(-down, 0), max(-right, 0) : 16 + min(-right, 0)]
        assert torch.equal(there, here)
        shifts.add((down, right))
    assert {shift for pair in shifts for shift in pair} == {-2, -1, 0, 1, 2}
    assert len(shifts) == 25


@pytest.mark.parametrize("layout", [torch.contiguous_format, torch.channels_last])
def test_the_gradient_of_a_translation_moves_back(layout: torch.memory_format) -> None:
    real = images(3, 2, 8).double().to(memory_format=layout).requires_grad_()
    moved = augment(real, ("translation",), noise())
    assert torch.equal(moved, augment(real.detach().contiguous(), ("translation",), noise()))
    assert moved.is_contiguous(memory_format=layout)
    assert gradcheck(lambda given: augment(given, ("translation",), noise()), real)
    assert gradgradcheck(lambda given: augment(given, ("translation",), noise()), real)


def test_cutout_is_one_square_of_at_most_half_the_side() -> None:
    real = images(200) + 2
    holes = (augment(real, ("cutout",), noise()) == 0).all(1)
    assert torch.equal(holes[:, None].expand_as(real), augment(real, ("cutout",), noise()) == 0)
    areas = set()
    for hole in holes:
        height, width = int(hole.any(1).sum()), int(hole.any(0).sum())
        assert int(hole.sum()) == height * width
        assert max(height, width) <= 8
        areas.add(height * width)
    assert max(areas) == 64
    assert min(areas) >= 16
    assert holes.float().mean(0).min() > 0  # every pixel is covered now and then


def test_an_unknown_operation_is_named() -> None:
    with pytest.raises(ValueError, match=r"\['colour'\].*color, translation, cutout"):
        augment(images(), ("colour",), noise())


def test_the_policy_that_configs_allow_is_what_exists() -> None:
    from typing import get_args

    from genxfer.models.config import AugmentPolicy

    assert set(get_args(get_args(AugmentPolicy)[0])) == set(OPERATIONS)
