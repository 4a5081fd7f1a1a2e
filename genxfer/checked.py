"""What all that can be told has in common: frozen, closed to unknown keys, and a number is a number.

Infinity and NaN pass every bound, or none, and JSON knows neither, so that a run would end over them when its result is
described. YAML reads yes and on as true, which Python counts as 1. Data only; knows no parameter.
"""

from collections.abc import Mapping
from typing import Any, get_args

from pydantic import BaseModel, ConfigDict, model_validator


class Checked(BaseModel):
    """A model of parameters, whose values were checked and stay as they are."""

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)

    @model_validator(mode="before")
    @classmethod
    def _truth_is_no_number(cls, values: Any) -> Any:
        """Hand true and false to what takes numbers, and none of these two, as the words that they are."""
        if not isinstance(values, Mapping):
            return values
        return {key: _as_words(value) if key in cls._numbers() else value for key, value in values.items()}

    @classmethod
    def _numbers(cls) -> set[str]:
        allowed = {key: leaves(field.annotation) for key, field in cls.model_fields.items()}
        return {key for key, kinds in allowed.items() if bool not in kinds and any(map(_is_number, kinds))}


def leaves(annotation: Any) -> list[Any]:
    """Return what an annotation allows in the end: the types, and the values of literals, that it is built from."""
    inner = get_args(annotation)
    return [leaf for argument in inner for leaf in leaves(argument)] if inner else [annotation]


def models_of(annotation: Any) -> list[type[BaseModel]]:
    """Return every pydantic model in an annotation, through unions, Optional and Annotated, in their order."""
    return [leaf for leaf in leaves(annotation) if isinstance(leaf, type) and issubclass(leaf, BaseModel)]


def _is_number(kind: Any) -> bool:
    return kind in (int, float) or isinstance(kind, int | float)


def _as_words(value: Any) -> Any:
    """Return a value with "true" and "false" for the booleans in it, such as in a list or a mapping."""
    if isinstance(value, Mapping):
        return {key: _as_words(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_as_words(item) for item in value]
    return str(value).lower() if isinstance(value, bool) else value
