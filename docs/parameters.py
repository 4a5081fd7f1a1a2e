"""Write parameters.md: every parameter with its default, what is allowed and what it is, as the code has them.

    python docs/parameters.py

Reads the models that check params.yaml, so the page says what they say; a test compares.
"""

from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any, get_args

from pydantic import BaseModel
from pydantic.fields import FieldInfo
from pydantic_core import PydanticUndefined

from genxfer.checked import models_of
from genxfer.config import FinetuneSection, Params, PretrainSection
from genxfer.data.config import Source, TargetFields
from genxfer.models.config import FAMILIES, RECOMMENDED, FamilyConfig, Recommended
from genxfer.transfer.config import METHODS

PAGE = Path(__file__).with_suffix(".md")

HEAD = """\
# Every parameter

    python docs/parameters.py

writes this page from the code that checks params.yaml. Each key can be set there, or for one command by
`-S section.key=value`; a key that is not listed here is refused. Every key may be `auto`: that is its default or, where
this is `auto` itself, what [the family recommends](#what-auto-stands-for) or the description says.
"""


def page() -> str:
    """Return the page as Markdown."""
    parts = [HEAD]
    for name, field in Params.model_fields.items():
        section = field.alias or name
        models = models_of(field.annotation)
        if section == "model":
            parts += _families()
            continue
        parts.append(f"## {section}\n\n{_said(models[0])}\n")
        inherited = PretrainSection if models[0] is FinetuneSection else None
        if inherited:
            parts.append("The keys of [pretrain](#pretrain), each with a value of its own, and\n")
        parts.append(_table(models[0], without=inherited))
        if section == "dataset":
            parts += _sources()
    parts += _methods()
    parts += _recommended()
    return "\n".join(parts)


def _families() -> list[str]:
    family = ("`dcgan`", _listed(FAMILIES), "Which model.")
    parts = [
        "## model\n\nThe generative model. Keys of every family:\n",
        _table(FamilyConfig, hidden=("family",), also={"family": family}),
    ]
    for name, config in FAMILIES.items():
        parts += [f"### {name}\n\n{_said(config)}\n", _table(config, without=FamilyConfig, hidden=("family",))]
    return parts


def _sources() -> list[str]:
    parts = ["### dataset.source, dataset.target and dataset.target.heldout\n\nImages of one of four kinds:\n"]
    for config in models_of(Source):
        kinds = _listed(get_args(config.model_fields["kind"].annotation))
        parts += [f"`kind` {kinds}: {_said(config)}\n"]
        parts += [_table(config, hidden=("kind",))] if len(config.model_fields) > 1 else []
    path = ("`data/target`", "", "With `mnist` and `digits`: the folder the training images are written to.")
    return [*parts, "A target has, with each kind:\n", _table(TargetFields, also={"path": path})]


def _methods() -> list[str]:
    lines = [
        "## Methods and their keys",
        "",
        "| finetune.method | keys, and their defaults | what it does |",
        "|---|---|---|",
    ]
    for name, config in METHODS.items():
        keys = [f"`{key}` {_default(field)}" for key, field in config.model_fields.items() if key != "method"]
        lines.append(f"| `{name}` | {', '.join(keys)} | {config.explained} |")
    return ["\n".join(lines) + "\n\n`gradual`'s and `miner`'s defaults follow the budget and the nets.\n"]


def _recommended() -> list[str]:
    lines = [
        "## What `auto` stands for",
        "",
        f"| | {_listed(RECOMMENDED, ' | ')} |",
        "|---|" + "---:|" * len(RECOMMENDED),
    ]
    for key in Recommended.model_fields:
        values = " | ".join(_shown(getattr(family, key)) or "none" for family in RECOMMENDED.values())
        lines.append(f"| {key} | {values} |")
    note = (
        "\nA rate for fine-tuning is multiplied by "
        + ", ".join(f"{config.lr_factor:g} with `{name}`" for name, config in METHODS.items() if config.lr_factor != 1)
        + ". `finetune.validate_every_kimg` is a tenth of the budget, or `validation_pause_kimg` where that is more.\n"
    )
    return ["\n".join(lines) + "\n" + note]


def _table(
    model: type[BaseModel],
    *,
    without: type[BaseModel] | None = None,
    hidden: Iterable[str] = (),
    also: Mapping[str, tuple[str, str, str]] | None = None,
) -> str:
    """Return the table of the keys of `model`, less those that `without` has alike."""
    lines = ["| key | default | allowed | what it is |", "|---|---|---|---|"]
    lines += [f"| `{key}` | {' | '.join(cells)} |" for key, cells in (also or {}).items()]
    schema = model.model_json_schema(by_alias=True)
    for key, field in model.model_fields.items():
        if key in hidden or (without and _same(field, without.model_fields.get(key))):
            continue
        allowed = _allowed(schema["properties"][key], schema.get("$defs", {}))
        lines.append(f"| `{key}` | {_default(field)} | {allowed} | {field.description or ''} |")
    return "\n".join(lines) + "\n"


def _same(field: FieldInfo, other: FieldInfo | None) -> bool:
    return other is not None and (field.default, field.description) == (other.default, other.description)


def _default(field: FieldInfo) -> str:
    if field.default is PydanticUndefined:
        return "required"
    if isinstance(field.default, BaseModel):
        given = field.default.model_dump(exclude_unset=True)
        return f"`{{{', '.join(f'{key}: {value}' for key, value in given.items())}}}`"
    return "`auto`" if field.default is None else f"`{_shown(field.default)}`"


def _shown(value: Any) -> str:
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, float):
        return f"{value:g}"
    if isinstance(value, tuple):
        return ", ".join(map(_shown, value)) if value else ""
    return str(value)


def _allowed(schema: Mapping[str, Any], definitions: Mapping[str, Any]) -> str:
    """Return in words what a JSON schema lets through; nothing where any text is."""
    if "$ref" in schema:
        return _allowed(definitions[schema["$ref"].rpartition("/")[2]], definitions)
    if "discriminator" in schema:
        return "see below"
    if "anyOf" in schema:
        return " or ".join(filter(None, (_allowed(option, definitions) for option in schema["anyOf"])))
    if "const" in schema:
        return f"`{schema['const']}`"
    if "enum" in schema:
        return _listed(schema["enum"])
    kind = schema.get("type")
    if kind == "array":
        items = _allowed(schema.get("items", {}), definitions)
        return f"a list of {items}"
    if kind == "object":
        return "a whole number for each net: `{discriminator: 2}`" if "additionalProperties" in schema else ""
    if kind == "boolean":
        return "`true`, `false`"
    if kind in ("number", "integer"):
        return _range(schema, "a whole number" if kind == "integer" else "a number")
    return ""


def _range(schema: Mapping[str, Any], noun: str) -> str:
    low, high = schema.get("minimum"), schema.get("maximum")
    above, below = schema.get("exclusiveMinimum"), schema.get("exclusiveMaximum")
    if low is not None and high is not None:
        return f"{noun} from {low:,g} to {high:,g}" if high < 1e6 else f"{noun} from {low:,g} to {high:,.0f}"
    words = [f"of at least {low:g}" if low is not None else "", f"above {above:g}" if above is not None else ""]
    words += [f"up to {high:,.0f}" if high is not None else "", f"below {below:,.0f}" if below is not None else ""]
    return " ".join([noun, *filter(None, words)])


def _listed(names: Iterable[Any], between: str = ", ") -> str:
    return between.join(f"`{name}`" for name in names)


def _said(model: type[BaseModel]) -> str:
    return " ".join((model.__doc__ or "").split())


if __name__ == "__main__":
    PAGE.write_text(page(), encoding="utf-8")
