"""params.yaml -> one frozen `Params`, every value checked; every message about a bad parameter is made here.

The rooms own their sections; this module composes them, replaces `auto` by what the chosen family recommends, and
checks what no section can know alone (can this family make this resolution? does that net have so many layer groups?).
Reads no image and imports no torch: a wrong parameter must answer at once.
"""

from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Annotated, Any, Literal, get_args

import yaml
from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, ValidationError

from genxfer.data.config import DatasetConfig
from genxfer.errors import ParameterError, nearest
from genxfer.metrics.config import EvaluateConfig
from genxfer.models.config import RECOMMENDED, AnyFamilyConfig, AugmentPolicy, DCGANConfig, FamilyConfig, Recommended
from genxfer.registry.config import RegisterConfig
from genxfer.training.config import ComputeConfig, TrainConfig, check_batch
from genxfer.transfer.choice import Choice, choose
from genxfer.transfer.config import (
    METHOD_KEYS,
    METHODS,
    MethodConfig,
    MethodName,
    check_method,
    gradual_defaults,
    method_config,
)

AUTO = "auto"


class Section(BaseModel):
    """A section of params.yaml: frozen, and closed to keys it does not know."""

    model_config = ConfigDict(frozen=True, extra="forbid")


class PretrainSection(Section):
    """Training on the source domain. What is left empty (`auto`) is what the family recommends."""

    kimg: float | None = Field(default=None, gt=0, le=1e7, description="Budget in thousands of images.")
    batch: int | None = Field(default=None, ge=2, le=65536, description="Images per step, over all devices.")
    lr: float | None = Field(default=None, gt=0, le=1, description="Adam's learning rate.")
    seed: int = Field(default=1, ge=0, lt=2**31)
    lr_schedule: Literal["constant", "cosine"] | None = Field(default=None, description="After the warm-up.")
    warmup_kimg: float = Field(
        default=1.0, ge=0, description="The learning rate rises linearly from 0 over so many kimg."
    )
    ema_kimg: float | None = Field(default=None, ge=0, description="Half-life of the weight average that is published.")
    augment: AugmentPolicy | None = Field(default=None, description="DiffAugment operations on real and fake images.")
    mirror: bool = Field(default=False, description="Flip half of the images left-right. Not for digits and text.")
    on_divergence: Literal["stop", "rollback"] = Field(
        default="stop",
        description="rollback: go on from the last good report, at half the learning rate, at most 3 times.",
    )
    report_every_kimg: float = Field(default=1.0, gt=0, description="Losses are averaged and logged so often.")
    samples_every_kimg: float = Field(default=5.0, gt=0, description="A sample grid is drawn so often.")


class FinetuneSection(PretrainSection):
    """Training on the target domain, from the source model."""

    method: MethodName | None = Field(
        default=None, description="How the source model is adapted; auto chooses by family and number of images."
    )
    freeze: dict[str, Annotated[int, Field(ge=0)]] | None = Field(
        default=None,
        description="For each net, how many layer groups are fixed, from the image side (freeze, gradual).",
    )
    layers: int | None = Field(
        default=None, ge=0, description="How many layer groups of the one net are fixed (freeze_d, freeze_g)."
    )
    thaw_every_kimg: float | None = Field(
        default=None, gt=0, description="Thaw one group of each net every so many kimg (gradual)."
    )
    rank: int | None = Field(default=None, ge=1, description="Rank of the change of each matrix (lora).")
    alpha: float | None = Field(default=None, gt=0, description="That change is scaled by alpha / rank (lora).")
    miner_width: int | None = Field(default=None, ge=1, description="Hidden units of the net before z (miner).")
    thaw_after_kimg: float | None = Field(
        default=None, gt=0, description="Everything moves after so many kimg; auto: half of the budget (miner)."
    )


class BaselineSection(Section):
    """The same family, data, seed and budget as `finetune`, from scratch."""

    enabled: bool = True


def _without_auto(value: Any) -> Any:
    """Drop every key whose value is `auto`: its default then stands."""
    if isinstance(value, Mapping):
        return {key: _without_auto(item) for key, item in value.items() if item != AUTO}
    return value


Auto = BeforeValidator(_without_auto)


class Params(BaseModel):
    """The whole of params.yaml, checked."""

    model_config = ConfigDict(
        frozen=True, extra="forbid", validate_by_name=True, validate_by_alias=True, serialize_by_alias=True
    )

    dataset: Annotated[DatasetConfig, Auto] = Field(default_factory=DatasetConfig)
    model: Annotated[AnyFamilyConfig, Field(discriminator="family"), Auto] = Field(default_factory=DCGANConfig)
    pretrain: Annotated[PretrainSection, Auto] = Field(default_factory=PretrainSection)
    finetune: Annotated[FinetuneSection, Auto] = Field(default_factory=FinetuneSection)
    baseline: Annotated[BaselineSection, Auto] = Field(default_factory=BaselineSection)
    evaluate: Annotated[EvaluateConfig, Auto] = Field(default_factory=EvaluateConfig)
    # pydantic's own classes have an attribute `register`, hence the alias.
    registration: Annotated[RegisterConfig, Auto] = Field(default_factory=RegisterConfig, alias="register")
    compute: ComputeConfig = Field(default_factory=ComputeConfig)

    @property
    def recommended(self) -> Recommended:
        """What `auto` stands for with this family."""
        return RECOMMENDED[self.family.family]

    @property
    def family(self) -> FamilyConfig:
        """The family's config, typed as what all families have."""
        return self.model

    def pretraining(self) -> TrainConfig:
        """Return the numbers of the pretraining, every `auto` replaced."""
        return _train_config("pretrain", self.pretrain, self.recommended)

    def finetuning(self) -> TrainConfig:
        """Return the numbers of the fine-tuning, every `auto` replaced: the rate by family and method."""
        baseline = self.baseline_training()
        if self.finetune.lr is not None:
            return baseline
        return baseline.model_copy(update={"lr": baseline.lr * METHODS[self._method_name()].lr_factor})

    def baseline_training(self) -> TrainConfig:
        """Return the numbers of the baseline, every `auto` replaced: those of the fine-tuning of every parameter."""
        return _train_config("finetune", self.finetune, self.recommended)

    def evaluation(self) -> EvaluateConfig:
        """Return how the models are compared, `auto` replaced."""
        n_samples = self.evaluate.n_samples or self.recommended.n_samples
        return self.evaluate.model_copy(update={"n_samples": n_samples})

    def method(self) -> MethodConfig:
        """Return how the source model is adapted, `auto` replaced."""
        section = self.finetune
        given = {key: value for key in METHOD_KEYS if (value := getattr(section, key)) is not None}
        name = self._method_name()
        if name == "gradual":
            layer_groups = self.family.layer_groups(self.dataset.resolution_px)
            given = gradual_defaults(layer_groups, self.finetuning().kimg) | given
        if name == "miner":
            given = {"thaw_after_kimg": self.finetuning().kimg / 2} | given
        return method_config({"method": name} | given)

    def _method_name(self) -> MethodName:
        section = self.finetune
        return section.method or ("freeze" if section.freeze is not None else self.choice().method)

    def choice(self) -> Choice:
        """Return what `finetune.method: auto` stands for with this family and so many target images, and why."""
        return choose(self.family.family, self.dataset.target.n_train)


def _train_config(stage: str, section: PretrainSection, recommended: Recommended) -> TrainConfig:
    """Return what the family recommends for `stage`, with what the section gives laid over it."""
    own = {key: getattr(recommended, f"{stage}_{key}") for key in ("kimg", "lr", "augment")}
    common = {key: getattr(recommended, key) for key in ("batch", "lr_schedule", "ema_kimg")}
    given = {key: getattr(section, key) for key in PretrainSection.model_fields if getattr(section, key) is not None}
    return TrainConfig.model_validate(own | common | given)


def load_params(path: str | Path = "params.yaml", overrides: Iterable[str] = ()) -> Params:
    """Return the parameters of the file at `path` with `overrides` such as "finetune.kimg=60" laid over it.

    Raises ParameterError: no such file, not YAML, an unknown key, a wrong type, a value out of range, values that do
    not go together.
    """
    values = _read_yaml(Path(path))
    for override in overrides:
        _override(values, override)
    return parse_params(values)


def parse_params(values: Mapping[str, Any]) -> Params:
    """Return the checked parameters of a nested mapping; raises ParameterError with one line for each mistake."""
    try:
        params = Params.model_validate(values)
    except ValidationError as error:
        lines = dict.fromkeys(_explain(dict(item)) for item in error.errors())
        raise ParameterError("\n".join(lines)) from None
    check(params)
    return params


def check(params: Params) -> None:
    """Raise ParameterError when values that are each allowed do not go together."""
    dataset, compute = params.dataset, params.compute
    params.family.check_image(dataset.resolution_px, dataset.channels)
    check_method(params.method(), params.family, dataset.resolution_px)
    for name, train in (("pretrain", params.pretraining()), ("finetune", params.finetuning())):
        devices, nodes = (1 if number == AUTO else int(number) for number in (compute.devices, compute.nodes))
        check_batch(train.batch, devices * nodes, f"{name}.batch")
        if train.kimg * 1000 < train.batch:
            raise ParameterError(
                f"{name}.kimg is {train.kimg:g}, less than one batch of {name}.batch = {train.batch} images. "
                f"Set {name}.kimg to at least {train.batch / 1000:g}."
            )


def _read_yaml(path: Path) -> dict[str, Any]:
    try:
        values = yaml.safe_load(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise ParameterError(
            f"There is no {path}. Run in the project's folder, or name the file with --params."
        ) from None
    except (OSError, UnicodeDecodeError, yaml.YAMLError) as error:
        raise ParameterError(f"{path} cannot be read as YAML: {error}") from None
    if not isinstance(values, dict):
        raise ParameterError(f"{path} holds {type(values).__name__}, not sections such as 'dataset:' and 'model:'.")
    return values


def _override(values: dict[str, Any], override: str) -> None:
    """Lay one "section.key=value" over `values`, in place; the value is read as YAML."""
    path, equals, text = override.partition("=")
    keys = path.strip().split(".")
    if not equals or len(keys) < 2 or not all(keys):
        raise ParameterError(f"-S {override!r} is not of the form section.key=value, such as -S finetune.kimg=60.")
    try:
        value = yaml.safe_load(text) if text else ""
    except yaml.YAMLError:
        value = text
    place = values
    for key in keys[:-1]:
        if not isinstance(place.get(key), dict):  # absent, or `auto`
            place[key] = {}
        place = place[key]
    place[keys[-1]] = _number(value)


def _number(value: Any) -> Any:
    """YAML 1.1 reads 1e-3 as text; people who type it mean the number."""
    if isinstance(value, str):
        try:
            return float(value)
        except ValueError:
            return value
    return value


def _explain(error: dict[str, Any]) -> str:
    """Return one line for one of pydantic's errors: the key, the value, what is allowed."""
    path, owners, inside = _place(error["loc"])
    key = ".".join(path)
    value = error["input"]
    kind = error["type"]
    if kind == "extra_forbidden":
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
    return f"{key} is {value!r}; it {error['msg'].removeprefix('Input ')}."


def _place(loc: tuple[str | int, ...]) -> tuple[list[str], list[type[BaseModel]], list[type[BaseModel]]]:
    """Return pydantic's `loc` as a key path without union tags, the models owning its last key, and those inside it."""
    path: list[str] = []
    owners: list[type[BaseModel]] = [Params]
    inside = owners
    for part in map(str, loc):
        chosen = [model for model in inside if part in _tag_values(model)]
        if chosen:  # a union's tag such as "dcgan": which model was meant, not a key
            inside = chosen
            continue
        owners = inside
        path.append(part)
        fields = [_field(model, part) for model in owners]
        inside = [model for field in fields if field is not None for model in _models(field.annotation)]
    return path, owners, inside


def _field(model: type[BaseModel], key: str) -> Any:
    for name, field in model.model_fields.items():
        if key in (name, field.alias):
            return field
    return None


def _keys(models: list[type[BaseModel]]) -> list[str]:
    return list(dict.fromkeys(field.alias or name for model in models for name, field in model.model_fields.items()))


def _models(annotation: Any) -> list[type[BaseModel]]:
    """Return every pydantic model in an annotation, through unions, Optional and Annotated."""
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        return [annotation]
    return [model for argument in get_args(annotation) for model in _models(argument)]


def _tag_values(model: type[BaseModel]) -> set[str]:
    """Return the values of the field that tells this model from its siblings: `family`, or `kind`."""
    return {
        str(value)
        for tag in ("family", "kind")
        if tag in model.model_fields
        for value in get_args(model.model_fields[tag].annotation)
    }
