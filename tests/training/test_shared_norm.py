"""BatchNorm over several ranks: with equal images on both of two ranks it is torch's own over all of them."""

import copy
from collections.abc import Sequence

import pytest
import torch
from torch import Tensor, nn

from genxfer.training.shared_norm import SharedBatchNorm, convert

RANKS = 2
Norms = tuple[nn.Module, nn.Module]  # torch's, and the shared one


def gather(values: Sequence[Tensor]) -> Tensor:
    """The same from two ranks that see the same."""
    return torch.stack([torch.stack(list(values))] * RANKS)


@pytest.fixture(params=["cpu", pytest.param("cuda", marks=pytest.mark.gpu)])
def device(request: pytest.FixtureRequest) -> str:
    if request.param == "cuda" and not torch.cuda.is_available():
        pytest.skip("no GPU")
    return str(request.param)


@pytest.fixture
def norms(device: str) -> tuple[nn.BatchNorm2d, nn.Module]:
    torch.manual_seed(0)
    norm = nn.BatchNorm2d(3)
    nn.init.normal_(norm.weight, 1, 0.2)
    nn.init.normal_(norm.bias)
    return norm.to(device), convert(copy.deepcopy(norm), gather, RANKS)


def images(device: str) -> Tensor:
    values = torch.randn(4, 3, 5, 5, generator=torch.Generator().manual_seed(1)) * 3 + 1
    return values.to(device).requires_grad_()


def test_output_statistics_and_gradients_are_those_of_all_images(norms: Norms, device: str) -> None:
    norm, shared = norms
    x, y = images(device), images(device)
    both, own = norm(torch.cat([x, x])), shared(y)
    assert torch.allclose(both[:4], own, atol=1e-6)
    assert torch.allclose(norm.running_mean, shared.running_mean)
    assert torch.allclose(norm.running_var, shared.running_var)
    assert shared.num_batches_tracked == 1

    weights = torch.randn(4, 3, 5, 5).to(device)
    (both * torch.cat([weights, weights])).sum().backward()
    (own * weights).sum().backward()
    # The sum over ranks of a loss: x is on both ranks, and each has its own gradients of weight and bias.
    assert torch.allclose(x.grad, y.grad * RANKS, atol=1e-5)
    assert torch.allclose(norm.weight.grad, shared.weight.grad * RANKS, rtol=1e-4)
    assert torch.allclose(norm.bias.grad, shared.bias.grad * RANKS, rtol=1e-4)


def test_in_bf16_the_gradient_is_off_by_roundings_even_far_from_zero(norms: Norms, device: str) -> None:
    norm, shared = norms
    x = (torch.randn(16, 3, 8, 8, generator=torch.Generator().manual_seed(1)) + 5).to(device).bfloat16()
    x = x.contiguous(memory_format=torch.channels_last)
    weights = (
        torch.randn(16, 3, 8, 8).to(device) + x.float()
    )  # which leans on x, so that all of the formula's parts count
    of_x = {}
    for name, net, values in (("exact", norm, x.float()), ("bf16", shared, x.clone())):
        values.requires_grad_()
        (net(values).float() * weights).sum().backward()
        assert values.grad is not None
        of_x[name] = values.grad.float()
    assert (of_x["bf16"] - of_x["exact"]).norm() < 0.02 * of_x["exact"].norm()


def test_a_penalty_on_the_gradient_has_a_gradient(norms: Norms, device: str) -> None:
    norm, shared = norms
    found = {}
    for name, net in (("both", norm), ("own", shared)):
        x = images(device)
        values = torch.cat([x, x]) if name == "both" else x
        (gradient,) = torch.autograd.grad(net(values).pow(3).sum(), values, create_graph=True)
        gradient.square().sum().backward()
        found[name] = (x.grad, net.weight.grad, net.bias.grad)
    for both, own in zip(found["both"], found["own"], strict=True):
        assert torch.allclose(both, own * RANKS, rtol=1e-4, atol=1e-3)


def test_in_eval_mode_nothing_is_shared(norms: Norms, device: str) -> None:
    norm, shared = norms
    assert isinstance(shared, SharedBatchNorm)
    norm.eval()
    shared.eval()
    assert torch.equal(norm(images(device)), shared(images(device)))


def test_every_batch_norm_of_a_net_is_replaced() -> None:
    net = nn.Sequential(nn.Conv2d(3, 4, 3), nn.Sequential(nn.BatchNorm2d(4), nn.ReLU()))
    names = [name for name, _ in net.named_parameters()]
    converted = convert(net, gather, RANKS)
    assert isinstance(converted[1][0], SharedBatchNorm)
    assert [name for name, _ in converted.named_parameters()] == names
