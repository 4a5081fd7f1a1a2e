"""The line between noise and data, its times, and the solver that follows it."""

import math
from itertools import pairwise

import pytest
import torch
from torch import Tensor, nn

from genxfer.models.config import FlowConfig
from genxfer.models.family import ImageShape, Step, build_family
from genxfer.models.flow import Attention, heun, logit_normal, shifted_times
from genxfer.noise import Noise


def equal(steps: int) -> list[float]:
    return [i / steps for i in range(steps + 1)]


def test_heun_takes_its_known_steps_on_a_linear_field() -> None:
    """For dx/dt = a x each step multiplies by 1 + ah + (ah)^2 / 2, the last by 1 + ah."""
    x = torch.tensor([[1.0], [2.0]], dtype=torch.float64)
    rate, steps = -1.5, 12
    h = rate / steps
    factor = (1 + h + h**2 / 2) ** (steps - 1) * (1 + h)
    assert torch.allclose(heun(lambda x, t: rate * x, x, equal(steps)), x * factor)


def test_heun_converges_with_second_order() -> None:
    def error(steps: int) -> float:
        end = heun(lambda x, t: x * t.view(-1, 1), torch.ones(1, 1, dtype=torch.float64), equal(steps))
        return abs(end.item() - math.exp(0.5))  # dx/dt = t x ends at exp(1/2)

    assert error(8) < 3e-2  # one step of first order makes an error of second order in its length
    assert 3.5 < error(16) / error(32) < 4.5


def test_heun_asks_at_both_ends_of_every_step_but_never_at_the_end_of_all() -> None:
    times: list[float] = []

    def velocity(x: Tensor, t: Tensor) -> Tensor:
        times.append(t[0].item())
        return torch.zeros_like(x)

    heun(velocity, torch.zeros(2, 3), [0, 0.25, 0.375, 1])
    assert times == [0, 0.25, 0.25, 0.375, 0.375]


def test_sampling_takes_half_of_its_steps_in_the_first_third_of_the_way() -> None:
    times = shifted_times(12)
    assert (times[0], times[-1]) == (0, 1)
    assert times[6] == pytest.approx(1 / 3)
    lengths = [after - t for t, after in pairwise(times)]
    assert lengths == sorted(lengths)


def test_the_logit_of_t_is_standard_normal() -> None:
    t = logit_normal(torch.randn(200_000, generator=torch.Generator().manual_seed(0)))
    assert t.min() > 0
    assert t.max() < 1
    logit = t.double().logit()
    assert abs(logit.mean().item()) < 0.01
    assert abs(logit.std().item() - 1) < 0.01
    assert 0.26 < ((t > 0.4) & (t < 0.6)).double().mean() < 0.36  # the middle comes more often than 0.2


def test_the_net_is_asked_on_the_line_and_answers_its_velocity() -> None:
    """With data = a known image, the input at t must be (1 - t) noise + t data and the target data - noise."""
    family = build_family(FlowConfig(width=8), ImageShape(1, 16))
    real = torch.full((64, 1, 16, 16), 0.5)

    class Oracle(nn.Module):
        def forward(self, x: Tensor, t: Tensor) -> Tensor:
            t = t.view(-1, 1, 1, 1)
            noise = (x - t * 0.5) / (1 - t)
            return 0.5 - noise

    family.nets["unet"] = Oracle()
    step = Step(0, 0, Noise(torch.Generator().manual_seed(0)), lambda x: x)
    assert family.loss("main", real, step)["velocity"].item() < 1e-6


def test_the_default_net_has_about_1_7_million_parameters() -> None:
    nets = build_family(FlowConfig(), ImageShape(1, 32)).nets
    assert 1.5e6 < sum(p.numel() for p in nets.parameters()) < 1.9e6


def test_attention_lets_every_position_see_every_other() -> None:
    attention = Attention(16)
    nn.init.normal_(attention.leave.weight)
    x = torch.randn(1, 16, 4, 4, generator=torch.Generator().manual_seed(0)).requires_grad_()
    attention(x)[0, :, 0, 0].sum().backward()
    assert x.grad is not None
    assert (x.grad.abs().sum(dim=1) > 0).all()


def test_only_the_lowest_resolution_attends() -> None:
    family = build_family(FlowConfig(width=8), ImageShape(1, 32))
    owners = [name for name, module in family.nets["unet"].named_modules() if isinstance(module, Attention)]
    assert len(owners) == 1
    assert owners[0].startswith(family.config.layer_groups(32)["unet"][-2])
