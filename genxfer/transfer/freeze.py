"""Hold layer groups fixed: no gradient and no BatchNorm drift; and the table of what moves.

Handed a family and how many groups of each net are fixed at this moment; the engine asks for it, through a method, at
the start and at each thaw. Knows nothing of schedules, optimizers or data.
"""

from collections.abc import Mapping
from dataclasses import dataclass

from torch import nn

from genxfer.models.family import Family


@dataclass(frozen=True)
class GroupRow:
    """One layer group of one net: how many parameters it has, and how many of them move."""

    net: str
    group: str
    parameters: int
    moving: int


def apply(family: Family, counts: Mapping[str, int]) -> None:
    """Fix the first `counts[net]` layer groups of each net, from the image side, and let all others move.

    A negative count fixes all but so many, those next to the latent.

    Fixed: no gradient, and eval mode, so that running statistics stand still. All else: gradient and training mode.
    """
    family.nets.train().requires_grad_(True)
    for net, groups in family.layer_groups().items():
        for group in groups[: counts.get(net, 0)]:
            for module in group.modules:
                module.eval().requires_grad_(False)


def group_rows(family: Family) -> list[GroupRow]:
    """Return one row for each layer group of each net as it is held now, from the image side to the latent side."""
    return [
        GroupRow(net, group.name, _parameters(group.modules), _parameters(group.modules, moving=True))
        for net, groups in family.layer_groups().items()
        for group in groups
    ]


def summary(rows: list[GroupRow]) -> str:
    """Return `rows` as a table for people, with the totals of what moves and what stays fixed."""
    net_width = max(len(row.net) for row in rows)
    group_width = max(len(row.group) for row in rows)
    lines = [
        f"  {row.net:<{net_width}}  {row.group:<{group_width}}  {row.parameters:>12,}  {_fate(row)}" for row in rows
    ]
    moved, fixed = totals(rows)
    return "\n".join([*lines, f"  {moved:,} parameters move, {fixed:,} stay fixed"])


def totals(rows: list[GroupRow]) -> tuple[int, int]:
    """Return how many parameters move and how many stay fixed."""
    moving = sum(row.moving for row in rows)
    return moving, sum(row.parameters for row in rows) - moving


def _fate(row: GroupRow) -> str:
    if row.moving in (0, row.parameters):
        return "moves" if row.moving else "fixed"
    return f"{row.moving:,} of them move"


def _parameters(modules: tuple[nn.Module, ...], *, moving: bool = False) -> int:
    return sum(
        parameter.numel()
        for module in modules
        for parameter in module.parameters()
        if parameter.requires_grad or not moving
    )
