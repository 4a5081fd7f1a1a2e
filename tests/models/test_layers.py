"""The layers beside torch's: the same values and gradients, of every order, whichever way they are computed."""

from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn
from torch.autograd import gradcheck, gradgradcheck
from torch.nn.utils import parametrize

from genxfer.models import layers
from genxfer.models.layers import FEW_CHANNELS, UNFOLDED_CHANNELS, Double, Flatten, Halve, Tanh, Unflatten

MANY = UNFOLDED_CHANNELS
PAIRS: list[tuple[Callable[..., nn.Module], Callable[..., nn.Module]]] = [
    (Halve, nn.Conv2d),
    (Double, nn.ConvTranspose2d),
]


@pytest.mark.parametrize("channels", [2, FEW_CHANNELS + 1])
@pytest.mark.parametrize("form", [layers._Halve, layers._Double])
def test_gradients_of_both_orders_are_those_of_the_values(form: type[torch.autograd.Function], channels: int) -> None:
    torch.manual_seed(0)
    sizes = ((1, channels, 2, 4), (channels, channels, 4, 4), (channels,))
    *given, bias = (torch.randn(size, dtype=torch.float64, requires_grad=True) for size in sizes)
    assert gradcheck(form.apply, (*given, bias))
    assert gradgradcheck(form.apply, (*given, bias))


@pytest.mark.parametrize("bias", [False, True])
@pytest.mark.parametrize("layout", [torch.contiguous_format, torch.channels_last])
@pytest.mark.parametrize("after", [1, 3, MANY])
@pytest.mark.parametrize(("ours", "theirs"), PAIRS)
def test_in_bf16_values_and_gradients_are_those_of_torch(
    ours: Callable[..., nn.Module],
    theirs: Callable[..., nn.Module],
    after: int,
    layout: torch.memory_format,
    bias: bool,
) -> None:
    torch.manual_seed(0)
    fast = ours(MANY, after, bias=bias).to(memory_format=layout)
    plain = theirs(MANY, after, 4, stride=2, padding=1, bias=bias).to(memory_format=layout)
    plain.load_state_dict(fast.state_dict())
    images = torch.randn(3, MANY, 8, 12).to(memory_format=layout).requires_grad_()
    for value, expected in zip(values_and_gradients(fast, images), values_and_gradients(plain, images), strict=True):
        # Where bf16 is not built in, torch rounds in other places than where it is.
        assert (value - expected).norm() < 0.03 * expected.norm()


def values_and_gradients(layer: nn.Module, images: Tensor) -> list[Tensor]:
    """Return the values, the gradients of their waves, and those of the squared gradient in the images, as R1 takes."""
    with torch.autocast("cpu", torch.bfloat16):
        values = layer(images).float()
    waves = values.sin().sum()
    leaves = [images, *layer.parameters()]
    first = torch.autograd.grad(waves, leaves, create_graph=True)
    return [values, *first, *torch.autograd.grad(first[0].square().sum(), [images, layer.weight])]


def test_the_fast_way_is_taken_in_bf16_and_nowhere_else(monkeypatch: pytest.MonkeyPatch) -> None:
    taken: list[int] = []
    real = layers._by_matrix_product
    monkeypatch.setattr(layers, "_by_matrix_product", lambda *images: (taken.append(1), real(*images))[1])
    monkeypatch.setattr(layers, "_by_convolution", lambda *given: pytest.fail("of few channels, in float32"))
    Double(4, 3)(torch.randn(2, 4, 8, 8))
    images = torch.randn(2, MANY, 8, 8)
    Halve(MANY, 4)(images).sum().backward()
    with torch.autocast("cpu", torch.bfloat16):
        few = Halve(3, 4)(images[:, :3])
    few.sum().backward()
    assert not taken
    with torch.autocast("cpu", torch.bfloat16):
        many = Halve(MANY, 4)(images)
    many.sum().backward()
    assert taken


@pytest.mark.parametrize("in_bf16", [False, True])
@pytest.mark.parametrize("layer", [Halve, Double])
def test_a_weight_that_is_a_product_is_computed_once_in_a_step(layer: Callable[..., nn.Module], in_bf16: bool) -> None:
    computed: list[int] = []

    class Product(nn.Module):
        def forward(self, weight: Tensor) -> Tensor:
            computed.append(1)
            return 2 * weight

    changed = layer(MANY, MANY)
    parametrize.register_parametrization(changed, "weight", Product())
    computed.clear()
    with torch.autocast("cpu", torch.bfloat16, enabled=in_bf16):
        changed(torch.zeros(1, MANY, 8, 8))
    assert len(computed) == 1


def test_tanh_is_that_of_torch_rounded_once() -> None:
    x = torch.randn(1000)
    with torch.autocast("cpu", torch.bfloat16):
        assert torch.equal(Tanh()(x.bfloat16()), x.bfloat16().float().tanh().bfloat16())
    assert torch.equal(Tanh()(x), x.tanh())
    assert torch.equal(Tanh()(x.bfloat16()), x.bfloat16().tanh())


def test_flattening_hands_back_gradients_in_the_layout_of_the_images() -> None:
    images = torch.randn(2, 3, 4, 5).to(memory_format=torch.channels_last).requires_grad_()
    came_back: list[Tensor] = []
    before = images * 2
    rows = Flatten()(before)
    before.register_hook(came_back.append)  # sees the gradient after Flatten has
    (rows * torch.arange(60.0)).sum().backward()
    assert images.grad is not None
    assert torch.equal(images.grad, 2 * torch.arange(60.0).view(1, 3, 4, 5).expand(2, -1, -1, -1))
    assert came_back[-1].is_contiguous(memory_format=torch.channels_last)


def test_unflattening_is_the_inverse_of_flattening() -> None:
    images = torch.randn(2, 3, 4, 4)
    assert torch.equal(Unflatten(3, 4)(Flatten()(images)), images)
    with torch.autocast("cpu", torch.bfloat16):
        again = Unflatten(3, 4)(Flatten()(images))
    assert torch.equal(again, images)
    assert again.is_contiguous(memory_format=torch.channels_last)
