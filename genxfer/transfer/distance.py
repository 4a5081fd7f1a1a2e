"""How far nets have moved from the source model's weights, squared and weighed: what l2_sp and ewc hold down.

Handed the nets while they hold the source weights, and asked in every step thereafter. A part of the model that did not
come from the source, as its shape differs there, is free: nothing is worth staying near to. Knows nothing of losses.
"""

from collections.abc import Collection, Mapping, Sequence

import torch
from torch import Tensor

from genxfer.models.family import Family

Weights = Mapping[str, Tensor]  # by the parameter's name in `family.nets`, such as "generator.block_16px.0.weight"


class SourceDistance:
    """The weights that `family` holds now, save the `fresh` ones, and for each, unless all count alike, how much."""

    def __init__(self, family: Family, importance: Weights | None = None, fresh: Collection[str] = ()) -> None:
        self.source = {
            name: weight.detach().clone() for name, weight in family.nets.named_parameters() if name not in fresh
        }
        self.importance = dict(importance) if importance is not None else None

    def lay_out(self, family: Family) -> None:
        """Move to where the nets are, in their memory layout: other strides would cost several times as much."""
        for name, parameter in family.nets.named_parameters():
            for weights in (self.source, self.importance or {}):
                if name in weights:
                    weights[name] = torch.empty_like(parameter, requires_grad=False).copy_(weights[name])

    def squared(self, family: Family, nets: Sequence[str]) -> Tensor:
        """Return the sum [] of importance x (weight - source weight)^2 over what moves in `nets`; differentiable.

        Where an importance is given, only what it names counts.
        """
        counted = self.source.keys() if self.importance is None else self.source.keys() & self.importance.keys()
        moving = {
            f"{net}.{name}": parameter
            for net in nets
            for name, parameter in family.nets[net].named_parameters()
            if parameter.requires_grad and f"{net}.{name}" in counted
        }
        if not moving:
            return next(family.nets.parameters()).new_zeros(())
        differences = torch._foreach_sub(list(moving.values()), [self.source[name] for name in moving])
        squares = torch._foreach_mul(differences, differences)
        if self.importance is not None:
            squares = torch._foreach_mul(squares, tuple(self.importance[name] for name in moving))
        return torch.stack([square.sum() for square in squares]).sum()
