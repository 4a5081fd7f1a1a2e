"""What all that can be told has in common: frozen, closed to unknown keys, and a number is a number.

Infinity and NaN pass every bound, or none, and JSON knows neither, so that a run would end over them when its result is
described. Data only; knows no parameter.
"""

from typing import Any, get_args

from pydantic import BaseModel, ConfigDict


class Checked(BaseModel):
    """A model of parameters, whose values were checked and stay as they are."""

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)


def leaves(annotation: Any) -> list[Any]:
    """Return what an annotation allows in the end: the types, and the values of literals, that it is built from."""
    inner = get_args(annotation)
    return [leaf for argument in inner for leaf in leaves(argument)] if inner else [annotation]
