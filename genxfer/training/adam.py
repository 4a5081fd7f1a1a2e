"""Adam (Kingma & Ba 2015), fused: one pass over memory for each step.

The kernel of `torch.optim.Adam(fused=True)`, to the same bits. The class around it is not used because making one
imports torch's compiler: five seconds of every process that trains, for nothing. Nor is the function, which in every
step sorts parameters by device and type: here these are all the same. Knows nothing of phases or schedules.
"""

from collections.abc import Mapping

import torch
from torch import Tensor, nn

EPSILON = 1e-8


class Adam:
    """Moments of named parameters; one without a gradient, a fixed one, is passed over and has no moments yet."""

    def __init__(self, parameters: Mapping[str, nn.Parameter], betas: tuple[float, float]) -> None:
        self.parameters = dict(parameters)
        self.betas = betas
        self.steps: dict[str, Tensor] = {}
        self.means: dict[str, Tensor] = {}
        self.squares: dict[str, Tensor] = {}

    @torch.no_grad()
    def step(self, lr: float) -> None:
        """Move every parameter that has a gradient, and drop the gradients."""
        gradients = {name: p.grad for name, p in self.parameters.items() if p.grad is not None}
        for name in gradients:
            if name not in self.steps:
                self._begin(name)
        if gradients:
            steps = [self.steps[name] for name in gradients]
            torch._foreach_add_(steps, 1)
            torch._fused_adam_(
                [self.parameters[name] for name in gradients],
                list(gradients.values()),
                [self.means[name] for name in gradients],
                [self.squares[name] for name in gradients],
                [],
                steps,
                lr=lr,
                beta1=self.betas[0],
                beta2=self.betas[1],
                weight_decay=0.0,
                eps=EPSILON,
                amsgrad=False,
                maximize=False,
            )
        for parameter in self.parameters.values():
            parameter.grad = None

    def state(self) -> dict[str, Tensor]:
        """Return the moments by name, such as "mean.generator.projection.0.weight"."""
        kinds = {"step": self.steps, "mean": self.means, "square": self.squares}
        return {f"{kind}.{name}": tensor for kind, tensors in kinds.items() for name, tensor in tensors.items()}

    def restore(self, state: Mapping[str, Tensor]) -> None:
        """Take over what `state()` returned; raises KeyError when it is of other parameters."""
        for kind in (self.steps, self.means, self.squares):
            kind.clear()
        for name in [key.removeprefix("step.") for key in state if key.startswith("step.")]:
            self._begin(name)
            self.steps[name].copy_(state[f"step.{name}"])
            self.means[name].copy_(state[f"mean.{name}"])
            self.squares[name].copy_(state[f"square.{name}"])

    def _begin(self, name: str) -> None:
        """Set the moments of one parameter to zero, in its own memory layout, as the fused kernel expects."""
        parameter = self.parameters[name]
        self.steps[name] = torch.zeros((), device=parameter.device)
        self.means[name] = torch.zeros_like(parameter, memory_format=torch.preserve_format)
        self.squares[name] = torch.zeros_like(parameter, memory_format=torch.preserve_format)
