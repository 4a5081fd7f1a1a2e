"""params.yaml -> one frozen `Params`, every value checked.

The rooms own their sections; this module composes them, replaces `auto` by what the chosen family recommends, and
checks what no section can know alone (can this family make this resolution? does that net have so many layer groups?).
Reads no image and imports no torch: a wrong parameter must answer at once.
"""

import re
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Annotated, Any, Literal

import yaml
from pydantic import (
    BeforeValidator,
    ConfigDict,
    Field,
    GetJsonSchemaHandler,
    ValidationError,
    field_validator,
)
from pydantic_core import CoreSchema

from genxfer.checked import Checked
from genxfer.data.config import DatasetConfig
from genxfer.errors import ParameterError
from genxfer.metrics.config import EvaluateConfig
from genxfer.mistakes import explain_mistakes
from genxfer.models.config import RECOMMENDED, AnyFamilyConfig, AugmentPolicy, DCGANConfig, FamilyConfig, Recommended
from genxfer.registry.config import MODEL_URI, PromoteConfig, RegisterConfig
from genxfer.training.config import ComputeConfig, TrainConfig, check_adaptive, check_augment, check_batch
from genxfer.transfer.choice import Choice, choose
from genxfer.transfer.config import (
    METHOD_KEYS,
    METHODS,
    MethodConfig,
    MethodName,
    check_method,
    fitting_methods,
    gradual_defaults,
    method_config,
)

AUTO = "auto"
FROM_PRETRAINING = "pretrain"


class PretrainSection(Checked):
    """Training on the source domain. What is left empty (`auto`) is what the family recommends."""

    kimg: float | None = Field(default=None, gt=0, le=1e6, description="Budget in thousands of images.")
    batch: int | None = Field(default=None, ge=2, le=65536, description="Images per step, over all devices.")
    lr: float | None = Field(default=None, gt=0, le=1, description="Adam's learning rate.")
    seed: int = Field(default=1, ge=0, lt=2**31, description="Of the first weights, the data order and all noise.")
    lr_schedule: Literal["constant", "cosine"] | None = Field(default=None, description="After the warm-up.")
    warmup_kimg: float = Field(
        default=1.0, ge=0, description="The learning rate rises linearly from 0 over so many kimg."
    )
    ema_kimg: float | None = Field(default=None, ge=0, description="Half-life of the weight average that is published.")
    augment: AugmentPolicy | None = Field(
        default=None, description="DiffAugment operations on what a discriminator sees, real and fake."
    )
    augment_p: Literal["adaptive"] | Annotated[float, Field(ge=0, le=1)] | None = Field(
        default=None,
        description="Probability of each augmentation for each image, else 1; adaptive: as overfitting asks for.",
    )
    ada_kimg: float = Field(default=500.0, gt=0, description="adaptive moves it from 0 to 1 in so many kimg at most.")
    mirror: bool = Field(default=False, description="Flip half of the images left-right. Not for digits and text.")
    on_divergence: Literal["stop", "rollback"] = Field(
        default="stop",
        description="rollback: go on from the last good report, at half the learning rate, at most 3 times.",
    )
    report_every_kimg: float = Field(default=1.0, gt=0, description="Losses are averaged and logged so often.")
    samples_every_kimg: float = Field(default=5.0, gt=0, description="A sample grid is drawn so often.")


class FinetuneSection(PretrainSection):
    """Training on the target domain, from the source model."""

    init_from: str = Field(
        default=FROM_PRETRAINING,
        min_length=1,
        description="The source model: pretrain (the stage), a snapshot's folder, models:/NAME@ALIAS or "
        "models:/NAME/VERSION. With another than pretrain the source domain is neither read nor trained on.",
    )
    min_taken_over: float = Field(
        default=0.5, ge=0, le=1, description="Fail when less than this share of the model comes from the source model."
    )
    # A few kimg on few images leave no time for the 500 of the paper, which is made for runs of thousands.
    ada_kimg: float = Field(default=20.0, gt=0, description="adaptive moves it from 0 to 1 in so many kimg at most.")
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
    strength: float | None = Field(
        default=None, ge=0, description="Weight of the term that keeps near the source model (l2_sp, ewc, cdc)."
    )
    rank: int | None = Field(default=None, ge=1, description="Rank of the change of each matrix (lora).")
    alpha: float | None = Field(default=None, gt=0, description="That change is scaled by alpha / rank (lora).")
    miner_width: int | None = Field(
        default=None, ge=1, le=8192, description="Hidden units of the net before z (miner)."
    )
    thaw_after_kimg: float | None = Field(
        default=None, gt=0, description="Everything moves after so many kimg; auto: half of the budget (miner)."
    )
    validate_every_kimg: float | None = Field(
        default=None, gt=0, description="The averaged nets are scored on the validation images so often."
    )
    validation_samples: int | None = Field(
        default=None, ge=3, le=100_000, description="Samples drawn for each such score."
    )
    patience: int | None = Field(
        default=None, ge=1, description="Stop after so many scores in a row without improvement; empty: never."
    )

    @field_validator("init_from")
    @classmethod
    def _names_a_version(cls, where: str) -> str:
        if where.startswith("models:") and not MODEL_URI.fullmatch(where):
            raise ValueError("a registered model is written models:/NAME@ALIAS or models:/NAME/VERSION")
        return where


class BaselineSection(Checked):
    """The same family, data, seed and budget as `finetune`, from scratch."""

    enabled: bool = Field(default=True, description="Train it, so that the transfer gain can be measured.")


class CompareSection(Checked):
    """Several methods and seeds on one target: what the flow `compare` runs."""

    methods: tuple[MethodName | Literal["auto"], ...] | None = Field(
        default=None, min_length=1, description="The methods; empty: every one that is for the family."
    )
    seeds: tuple[Annotated[int, Field(ge=0, lt=2**31)], ...] = Field(
        default=(1,), min_length=1, description="Each method fine-tunes once with each of these seeds."
    )
    at_once: int = Field(default=1, ge=1, le=64, description="So many trainings run side by side, a process for each.")

    @field_validator("seeds")
    @classmethod
    def _each_is_another_trial(cls, seeds: tuple[int, ...]) -> tuple[int, ...]:
        if len(set(seeds)) != len(seeds):
            raise ValueError("name each seed once, as the same seed again is the same training and no further trial")
        return seeds


def _without_auto(value: Any) -> Any:
    """Drop every key whose value is `auto`: its default then stands."""
    if isinstance(value, Mapping):
        return {key: _without_auto(item) for key, item in value.items() if item != AUTO}
    return value


Auto = BeforeValidator(_without_auto)


def _with_family(values: Any) -> Any:
    """Say which family the keys of `model` are of, where they do not: the default one."""
    return {"family": DCGANConfig().family, **values} if isinstance(values, Mapping) else values


def _add_positions(schema: dict[str, Any], handler: GetJsonSchemaHandler) -> None:
    """Number the properties of `schema`, and those of all that it refers to, in the order of their declaration."""
    for part in [schema, *schema.get("anyOf", []), *schema.get("oneOf", []), *schema.get("allOf", [])]:
        found = handler.resolve_ref_schema(part)
        for position, item in enumerate(found.get("properties", {}).values()):
            if "position" not in item:
                item["position"] = position
                _add_positions(item, handler)


class Params(Checked):
    """The whole of params.yaml, checked."""

    model_config = ConfigDict(validate_by_name=True, validate_by_alias=True, serialize_by_alias=True)

    dataset: Annotated[DatasetConfig, Auto] = Field(default_factory=DatasetConfig)
    # The last of the validators is the first to see the values.
    model: Annotated[AnyFamilyConfig, Field(discriminator="family"), BeforeValidator(_with_family), Auto] = Field(
        default_factory=DCGANConfig
    )
    pretrain: Annotated[PretrainSection, Auto] = Field(default_factory=PretrainSection)
    finetune: Annotated[FinetuneSection, Auto] = Field(default_factory=FinetuneSection)
    baseline: Annotated[BaselineSection, Auto] = Field(default_factory=BaselineSection)
    evaluate: Annotated[EvaluateConfig, Auto] = Field(default_factory=EvaluateConfig)
    compare: Annotated[CompareSection, Auto] = Field(default_factory=CompareSection)
    # pydantic's own classes have an attribute `register`, hence the alias.
    registration: Annotated[RegisterConfig, Auto] = Field(default_factory=RegisterConfig, alias="register")
    promote: Annotated[PromoteConfig, Auto] = Field(default_factory=PromoteConfig)
    compute: ComputeConfig = Field(default_factory=ComputeConfig)

    @classmethod
    def __get_pydantic_json_schema__(cls, core: CoreSchema, handler: GetJsonSchemaHandler) -> dict[str, Any]:
        """Return the JSON schema with a `position` on each property: Prefect's form goes by it.

        Without, the form has the order in which the server's database gives the properties back; PostgreSQL sorts them.
        """
        schema = handler(core)
        _add_positions(schema, handler)
        return schema

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
        train, section = _train_config("finetune", self.finetune, self.recommended), self.finetune
        every_kimg = section.validate_every_kimg or max(train.kimg / 10, self.recommended.validation_pause_kimg)
        samples = section.validation_samples or self.recommended.validation_samples
        validation = {"validate_every_kimg": every_kimg, "validation_samples": samples, "patience": section.patience}
        return train.model_copy(update=validation)

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

    def compared_methods(self) -> tuple[str, ...]:
        """Return the methods that the flow `compare` compares, each once."""
        if self.compare.methods is not None:
            chosen = self.choice().method
            return tuple(dict.fromkeys(chosen if name == AUTO else name for name in self.compare.methods))
        needless = "freeze" if not self.finetune.freeze else None  # which groups it fixes is for the user to say
        return tuple(name for name in fitting_methods(self.family, self.dataset.resolution_px) if name != needless)

    def _method_name(self) -> MethodName:
        return self.finetune.method or self.choice().method

    def choice(self) -> Choice:
        """Return what `finetune.method: auto` stands for with this family and so many target images, and why."""
        if self.finetune.freeze is not None:
            return Choice("freeze", "freeze, as finetune.freeze says what stays fixed")
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
        raise ParameterError(explain_mistakes(error, Params)) from None
    check(params)
    return params


def check(params: Params) -> None:
    """Raise ParameterError when values that are each allowed do not go together."""
    dataset, compute = params.dataset, params.compute
    params.family.check_image(dataset.resolution_px, dataset.channels)
    check_method(params.method(), params.family, dataset.resolution_px)
    layer_groups = params.family.layer_groups(dataset.resolution_px)
    for name, train in (("pretrain", params.pretraining()), ("finetune", params.finetuning())):
        check_augment(train, layer_groups, name)
        check_adaptive(train, layer_groups, name)
        devices, nodes = (1 if number == AUTO else int(number) for number in (compute.devices, compute.nodes))
        check_batch(train.batch, devices * nodes, f"{name}.batch")
        if train.kimg * 1000 < train.batch:
            raise ParameterError(
                f"{name}.kimg is {train.kimg:g}, less than one batch of {name}.batch = {train.batch} images. "
                f"Set {name}.kimg to at least {train.batch / 1000:g}."
            )


_PLAIN_NUMBER = re.compile(r"[-+]?(\d+\.?\d*|\.\d+)([eE][-+]?\d+)?")


class _KeyTwice(yaml.composer.ComposerError):
    """A mapping has the key `key` twice."""

    def __init__(self, key: str, first: yaml.Mark | None, second: yaml.Mark | None) -> None:
        super().__init__(None, first, f"{key!r} stands here and above: keep one of them", second)
        self.key = key


class _OnceEach(yaml.SafeLoader):
    """Refuses a mapping that has a key twice, where PyYAML takes the last of its values and says nothing."""

    def compose_mapping_node(self, anchor: Any) -> yaml.MappingNode:
        """Return the mapping as it stands in the file; raises _KeyTwice, a YAMLError."""
        mapping: yaml.MappingNode = super().compose_mapping_node(anchor)
        first: dict[str, yaml.Node] = {}
        for key, _ in mapping.value:
            if isinstance(key, yaml.ScalarNode) and first.setdefault(key.value, key) is not key:
                raise _KeyTwice(key.value, first[key.value].start_mark, key.start_mark)
        return mapping


def _read_yaml(path: Path) -> dict[str, Any]:
    try:
        with path.open(encoding="utf-8") as file:
            values = yaml.load(file, _OnceEach)
    except FileNotFoundError:
        raise ParameterError(
            f"There is no {path}. Run in the project's folder, or name the file with --params."
        ) from None
    except (OSError, UnicodeDecodeError, yaml.YAMLError) as error:
        raise ParameterError(f"{path} cannot be read as YAML: {error}") from None
    except ValueError as error:  # of Python, which says no line
        raise ParameterError(
            f"{path} cannot be read as YAML: {error}. Something looks like a date or a number and is none; if it is a "
            "text, such as the path 2024-13-45, put it in quotes."
        ) from None
    if not isinstance(values, dict):
        raise ParameterError(f"{path} holds {type(values).__name__}, not sections such as 'dataset:' and 'model:'.")
    return values


def _override(values: dict[str, Any], override: str) -> None:
    """Lay one "section.key=value" over `values`, in place; the value is read as YAML."""
    path, equals, text = override.partition("=")
    keys = path.strip().split(".")
    if not equals or len(keys) < 2 or not all(keys):
        raise ParameterError(f"-S {override!r} is not of the form section.key=value, such as -S finetune.kimg=60.")
    value = _override_value(override, text)
    place = values
    for key in keys[:-1]:
        if not isinstance(place.get(key), dict):  # absent, or `auto`
            place[key] = {}
        place = place[key]
    place[keys[-1]] = value


def _override_value(override: str, text: str) -> Any:
    """Return what `text` means as YAML; as it stands, where it is no YAML. A key twice in it raises ParameterError.

    YAML 1.1 reads 1e-3 as text, and people who type it mean the number; in quotes it stays a text.
    """
    try:
        value = yaml.load(text, _OnceEach) if text else ""
    except _KeyTwice as error:
        raise ParameterError(f"-S {override!r} gives {error.key!r} twice: keep one of them.") from None
    except (yaml.YAMLError, ValueError):  # the latter of what looks like a date or a number and is none
        return text
    return float(text) if isinstance(value, str) and _PLAIN_NUMBER.fullmatch(text.strip()) else value
