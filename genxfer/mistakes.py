"""What is said of a wrong parameter: one line for each mistake, with the key, the value, and what is allowed.

Turns pydantic's errors into the house's words; knows the shape of the parameters by their models alone, and no
parameter by name.
"""

import re
from collections.abc import Iterable, Mapping
from typing import Any, get_args

from pydantic import BaseModel, ValidationError

from genxfer.checked import models_of
from genxfer.errors import nearest

KINDS_OF_VALUE = ("literal[", "constrained-")  # what pydantic names the alternatives of one key by
_SUBJECT = re.compile(r"^\w+ (?=should )")  # of pydantic's sentences: Input, String, Tuple, ...


def explain_mistakes(error: ValidationError, root: type[BaseModel]) -> str:
    """Return one line for each mistake that `error` found in values of the model `root`."""
    found = [dict(item) for item in error.errors() if not _counts_what_is_wrong(dict(item))]
    return _joined(dict.fromkeys(_explain(item, root) for item in found))


def _counts_what_is_wrong(error: dict[str, Any]) -> bool:
    """Whether a list is called too short for the items in it that are wrong, which have lines of their own."""
    return error["type"] == "too_short" and len(error["input"]) >= error["ctx"]["min_length"]


def _explain(error: dict[str, Any], root: type[BaseModel]) -> str:
    """Return one line for one of pydantic's errors: the key, the value, what is allowed."""
    path, owners, inside = _place(error["loc"], root)
    key = ".".join(path)
    value = error["input"]
    kind = error["type"]
    if kind in ("extra_forbidden", "invalid_key"):
        known = _keys(owners)
        return f"{key} is no parameter.{nearest(path[-1], known)} Known here: {', '.join(known)}."
    if kind in ("union_tag_invalid", "union_tag_not_found"):
        tag = error["ctx"]["discriminator"].strip("'")
        choices = [value for model in inside for value in sorted(_tag_values(model))]
        given = value.get(tag) if isinstance(value, Mapping) else getattr(value, tag, None)
        return f"{key}.{tag} is {given!r}; allowed: {', '.join(choices)}.{nearest(str(given), choices)}"
    if kind == "missing":
        return f"{key} is missing. Set it in params.yaml or with -S {key}=..."
    if kind == "literal_error":
        choices = [choice.strip("' ") for choice in error["ctx"]["expected"].replace(" or ", ",").split(",")]
        return f"{key} is {value!r}; allowed: {', '.join(choices)}.{nearest(str(value), choices)}"
    if kind == "value_error":
        return f"{key} is {value!r}: {error['ctx']['error']}."
    said = _SUBJECT.sub("", error["msg"]).replace(" after validation", "")
    if path[-1] == "[key]":
        return f"{'.'.join(path[:-2])} has the key {value!r}; it {said}."
    return f"{key} is {value!r}; it {said}."


def _joined(lines: Iterable[str]) -> str:
    """Return the lines; those of one value that may be of several kinds, such as `auto` or a number, as one."""
    joined: list[str] = []
    for line in lines:
        value, separator, allowed = line.partition("; ")
        if separator and joined and joined[-1].startswith(value + separator):
            joined[-1] += f" Or {allowed}"
        else:
            joined.append(line)
    return "\n".join(joined)


def _place(
    loc: tuple[str | int, ...], root: type[BaseModel]
) -> tuple[list[str], list[type[BaseModel]], list[type[BaseModel]]]:
    """Return pydantic's `loc` as a key path without union tags, the models owning its last key, and those inside it."""
    path: list[str] = []
    owners: list[type[BaseModel]] = [root]
    inside = owners
    for part in map(str, loc):
        chosen = [model for model in inside if part in _tag_values(model)]
        if chosen:  # a union's tag such as "dcgan": which model was meant, not a key
            inside = chosen
            continue
        if part.startswith(KINDS_OF_VALUE):
            continue
        owners = inside
        path.append(part)
        fields = [_field(model, part) for model in owners]
        inside = [model for field in fields if field is not None for model in models_of(field.annotation)]
    return path, owners, inside


def _field(model: type[BaseModel], key: str) -> Any:
    for name, field in model.model_fields.items():
        if key in (name, field.alias):
            return field
    return None


def _keys(models: list[type[BaseModel]]) -> list[str]:
    return list(dict.fromkeys(field.alias or name for model in models for name, field in model.model_fields.items()))


def _tag_values(model: type[BaseModel]) -> set[str]:
    """Return the values of the field that tells this model from its siblings: `family`, or `kind`."""
    return {
        str(value)
        for tag in ("family", "kind")
        if tag in model.model_fields
        for value in get_args(model.model_fields[tag].annotation)
    }
