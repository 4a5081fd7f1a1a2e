"""params.yaml: what is allowed, what `auto` means, and that each kind of mistake is told in one line."""

import re
from pathlib import Path
from typing import Any

import pytest

from genxfer.checked import leaves, models_of
from genxfer.config import Params, load_params, parse_params
from genxfer.errors import ParameterError
from genxfer.models.config import FAMILIES, RECOMMENDED, DCGANConfig
from genxfer.transfer.config import METHODS
from tests.conftest import REPOSITORY

PARAMS = REPOSITORY / "params.yaml"

MISTAKES = {
    "an unknown key": ("finetune.kimgs=3", ["finetune.kimgs", "Did you mean 'kimg'?"]),
    "an unknown section": ("finetun.kimg=3", ["finetun ", "Did you mean 'finetune'?"]),
    "a wrong type": ("finetune.kimg=many", ["finetune.kimg", "'many'", "number"]),
    "out of range": ("finetune.kimg=-1", ["finetune.kimg", "-1", "greater than 0"]),
    "an unknown family": ("model.family=dcgann", ["model.family", "'dcgann'", "mlp_vae", "Did you mean 'dcgan'?"]),
    "processes that cannot share a batch": (
        "compute.devices=3",
        ["pretrain.batch is 16", "3 processes", "multiple", "compute.devices"],
    ),
    "a key of another family": ("model.beta=2", ["model.beta", "discriminator_normalization"]),
    "an unknown kind of source": (
        "dataset.source.kind=mnst",
        ["dataset.source.kind", "archive", "Did you mean 'mnist'?"],
    ),
    "a missing key": ("dataset.source={kind: folder}", ["dataset.source.path", "missing"]),
    "a resolution the family cannot make": ("dataset.resolution_px=33", ["dataset.resolution_px", "33", "16, 32"]),
    "a resolution that no family can make": (
        "dataset.resolution_px=512",
        ["dataset.resolution_px is 512; it should be less than or equal to 256."],
    ),
    "an image the dense nets cannot make": ("model.family=mlp_gan", ["dataset.resolution_px", "28x28"]),
    "too many layer groups": ("finetune.freeze.discriminator=9", ["finetune.freeze.discriminator", "9", "0 to 4"]),
    "an unknown net": ("finetune.freeze.dscriminator=1", ["dscriminator", "Did you mean 'discriminator'?"]),
    "an unknown method": ("finetune.method=ful", ["finetune.method", "Did you mean 'full'?"]),
    "a model URI without a version": ("finetune.init_from=models:/x", ["finetune.init_from", "models:/NAME@ALIAS"]),
    "a share above all": ("finetune.min_taken_over=2", ["finetune.min_taken_over", "2", "less than or equal to 1"]),
    "an unknown extractor": ("evaluate.extractor=lite", ["evaluate.extractor", "Did you mean 'lite0'?"]),
    "an unknown precision": ("compute.precision=fp16", ["compute.precision", "bf16"]),
    "neither a number nor a word that is known": (
        "finetune.augment_p=adaptiv",
        ["finetune.augment_p is 'adaptiv'", "Did you mean 'adaptive'?", "number"],
    ),
    "a probability above 1": (
        "finetune.augment_p=2",
        ["finetune.augment_p is 2", "adaptive", "less than or equal to 1"],
    ),
    "adaptive augmentation without operations": (
        "pretrain.augment_p=adaptive",
        ["pretrain.augment_p is 'adaptive'", "pretrain.augment", "cutout"],
    ),
    "validation by too few samples": ("finetune.validation_samples=2", ["finetune.validation_samples is 2", "3"]),
    "a budget below one batch": ("finetune.kimg=0.01", ["finetune.kimg", "0.01", "batch"]),
    "an empty text": ("finetune.init_from=", ["finetune.init_from is ''; it should have at least 1 character."]),
    "a text of other characters": ("register.alias=a b", ["register.alias is 'a b'; it should match pattern '^[A-Z"]),
    "a number as a key": ("finetune.freeze={1: 2}", ["finetune.freeze has the key 1; it should be a valid string."]),
    "an unknown item": ("compare.methods=[ful]", ["compare.methods.0 is 'ful'", "Did you mean 'full'?"]),
    "no item": ("compare.methods=[]", ["compare.methods is []; it should have at least 1 item, not 0."]),
    "a seed twice": ("compare.seeds=[1, 2, 1]", ["compare.seeds is [1, 2, 1]", "name each seed once"]),
    "a key twice in one override": (
        "finetune.freeze={discriminator: 1, discriminator: 2}",
        ["-S 'finetune.freeze={discriminator: 1, discriminator: 2}' gives 'discriminator' twice: keep one of them."],
    ),
    "an override without a value": ("finetune.kimg", ["finetune.kimg", "section.key=value"]),
}


def test_the_repositorys_own_parameters_are_valid_and_complete() -> None:
    params = load_params(PARAMS)
    assert params.family.family == "dcgan"
    assert params.baseline.enabled


@pytest.mark.parametrize("name", MISTAKES)
def test_a_mistake_names_the_key_the_value_and_what_is_allowed(name: str) -> None:
    override, expected = MISTAKES[name]
    with pytest.raises(ParameterError) as caught:
        load_params(PARAMS, [override])
    message = str(caught.value)
    assert [part for part in expected if part not in message] == []
    assert "\n" not in message


def test_a_key_that_is_a_number_is_no_parameter() -> None:
    with pytest.raises(ParameterError, match=r"^1 is no parameter\. Known here: dataset, model"):
        parse_params({1: 1})
    with pytest.raises(ParameterError, match=r"^finetune\.1 is no parameter\. Known here: kimg"):
        parse_params({"finetune": {1: 1}})


def numbers(kind: type) -> list[Any]:
    """Return each parameter that takes numbers of this kind, behind the overrides that it needs to be one."""
    return [
        pytest.param([f"model.family={name}"] if (name := _family(model)) else [], f"{section}.{key}")
        for section, sections in Params.model_fields.items()
        for model in models_of(sections.annotation)
        for key, field in model.model_fields.items()
        if kind in leaves(field.annotation)
    ]


def _family(model: Any) -> str | None:
    return model.model_fields["family"].default if "family" in model.model_fields else None


@pytest.mark.parametrize(("before", "key"), numbers(float))
def test_a_number_is_finite(before: list[str], key: str) -> None:
    """What ends in the description of a result has to be JSON, and no bound keeps NaN out."""
    for value in (".inf", "-.inf", ".nan"):
        shown = re.escape(f"{key} is {value.replace('.', '')}; ")
        with pytest.raises(ParameterError, match=rf"^{shown}.*it should be a finite number\.$"):
            load_params(PARAMS, [*before, f"{key}={value}"])


@pytest.mark.parametrize(("before", "key"), [*numbers(int), *numbers(float)])
def test_true_is_not_the_number_1(before: list[str], key: str) -> None:
    with pytest.raises(ParameterError, match=rf"^{re.escape(key)} is 'true'; [^\n]*\.$"):
        load_params(PARAMS, [*before, f"{key}=yes"])


@pytest.mark.parametrize(
    ("key", "value"),
    [("compare.seeds", "[2, true]"), ("finetune.freeze", "{discriminator: on}"), ("finetune.augment_p", "on")],
)
def test_true_is_not_the_number_1_where_several_or_certain_ones_are_allowed(key: str, value: str) -> None:
    with pytest.raises(ParameterError, match=rf"^{re.escape(key)}\S* is 'true'; .*should be a valid"):
        load_params(PARAMS, [f"{key}={value}"])


def test_two_mistakes_are_told_at_once() -> None:
    with pytest.raises(ParameterError) as caught:
        load_params(PARAMS, ["finetune.kimg=-1", "pretrain.batch=x"])
    assert len(str(caught.value).splitlines()) == 2


@pytest.mark.parametrize(
    ("overrides", "expected"),
    [
        (
            ["method=full", "freeze.discriminator=1"],
            r"finetune\.freeze is .*'full'.*every parameter moves.*: freeze, gr",
        ),
        (["method=freeze_d", "thaw_every_kimg=2"], r"thaw_every_kimg is 2\.0, but .*'freeze_d'.*: gradual"),
        (["method=freeze"], r"nothing stays fixed.*discriminator: 0 to 4"),
    ],
)
def test_a_key_of_another_method_is_refused_with_the_methods_that_have_it(overrides: list[str], expected: str) -> None:
    with pytest.raises(ParameterError, match=expected):
        load_params(PARAMS, [f"finetune.{override}" for override in overrides])


def test_adaptive_augmentation_wants_a_discriminator() -> None:
    assert load_params(PARAMS, ["finetune.augment_p=adaptive"]).finetuning().augment_p == "adaptive"
    with pytest.raises(ParameterError, match=r"finetune\.augment_p is 'adaptive'.*has no discriminator"):
        load_params(PARAMS, ["finetune.augment_p=adaptive", "model.family=vae"])


@pytest.mark.parametrize("name", ["vae", "flow"])
def test_what_no_discriminator_sees_is_not_augmented(name: str) -> None:
    wanted = "finetune.augment=[color, cutout]"
    assert load_params(PARAMS, [wanted]).finetuning().augment == ("color", "cutout")
    with pytest.raises(ParameterError, match=r"finetune\.augment is \[color, cutout\].*has none.*finetune\.mirror"):
        load_params(PARAMS, [wanted, f"model.family={name}"])
    assert load_params(PARAMS, ["finetune.augment=[]", f"model.family={name}"]).finetuning().augment == ()


@pytest.mark.parametrize("name", FAMILIES)
def test_a_run_on_the_target_is_validated_a_few_times_and_pretraining_never(name: str) -> None:
    shape = ["dataset.resolution_px=28"] if name.startswith("mlp") else []
    params = load_params(PARAMS, [f"model.family={name}", "finetune.kimg=40", *shape])
    train, recommended = params.finetuning(), RECOMMENDED[name]
    assert train.validate_every_kimg == 40 / 10
    short = load_params(PARAMS, [f"model.family={name}", "finetune.kimg=8", *shape]).finetuning()
    assert short.validate_every_kimg == recommended.validation_pause_kimg > 0.8
    assert (train.validation_samples, train.patience) == (recommended.validation_samples, None)
    assert params.pretraining().validate_every_kimg is None
    own = load_params(
        PARAMS, ["finetune.validate_every_kimg=3", "finetune.validation_samples=9", "finetune.patience=2"]
    )
    train = own.finetuning()
    assert (train.validate_every_kimg, train.validation_samples, train.patience) == (3, 9, 2)


def test_a_method_that_makes_no_sense_for_the_family_says_why_not_and_which_do() -> None:
    with pytest.raises(ParameterError, match=r"'freeze_d'.*family 'vae'.*no discriminator.*Methods for it: auto, full"):
        load_params(PARAMS, ["model.family=vae", "finetune.method=freeze_d"])


def test_gradual_thaws_all_groups_by_half_of_the_budget() -> None:
    method = load_params(PARAMS, ["finetune.method=gradual", "finetune.kimg=12"]).method()
    assert method.fixed_groups(0) == {"generator": 3, "discriminator": 3}
    assert method.fixed_groups(5_990) == {"generator": 1, "discriminator": 1}
    assert method.fixed_groups(6_000) == {}


def test_everything_moves_after_half_of_the_budget_of_mining() -> None:
    method = load_params(PARAMS, ["finetune.method=miner", "finetune.kimg=12"]).method()
    assert method.fixed_groups(5_990) == {"generator": -1}
    assert method.fixed_groups(6_000) == {}


@pytest.mark.parametrize("family", FAMILIES)
def test_auto_is_what_the_family_recommends(family: str) -> None:
    recommended = RECOMMENDED[family]
    shape = ["dataset.resolution_px=28"] if family.startswith("mlp") else []
    params = load_params(PARAMS, [f"model.family={family}", *shape])
    assert params.pretraining().kimg == recommended.pretrain_kimg
    factor = METHODS[params.choice().method].lr_factor
    assert params.finetuning().lr == recommended.finetune_lr * factor
    assert params.finetuning().batch == recommended.batch
    assert params.method().method == params.choice().method
    assert str(params.dataset.target.n_train) in params.choice().why


@pytest.mark.parametrize("name", METHODS)
def test_a_method_may_want_another_rate_than_the_family_recommends_and_the_baseline_does_not(
    name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(METHODS[name], "lr_factor", 4.0)
    recommended = RECOMMENDED["dcgan"].finetune_lr
    freeze = ["finetune.freeze.generator=1"] if name == "freeze" else []
    params = load_params(PARAMS, [f"finetune.method={name}", *freeze])
    assert params.finetuning().lr == 4 * recommended
    assert params.baseline_training().lr == recommended
    given = load_params(PARAMS, [f"finetune.method={name}", *freeze, "finetune.lr=1e-3"])
    assert given.finetuning().lr == given.baseline_training().lr == 1e-3


def test_a_value_that_is_given_beats_the_recommendation() -> None:
    params = load_params(PARAMS, ["finetune.kimg=7", "finetune.lr=1e-3", "finetune.method=full"])
    assert params.finetuning().kimg == 7
    assert params.finetuning().lr == 1e-3
    assert params.method().method == "full"
    assert params.pretraining().kimg == RECOMMENDED["dcgan"].pretrain_kimg


def test_an_override_reaches_into_a_value_that_is_auto() -> None:
    assert load_params(PARAMS, ["finetune.freeze.generator=2"]).method().fixed_groups(0) == {"generator": 2}


def test_parameters_survive_the_form_of_the_ui() -> None:
    params = load_params(PARAMS, ["finetune.kimg=7", "finetune.freeze.generator=2"])
    assert parse_params(params.model_dump(mode="json")) == params


def test_a_missing_file_and_a_file_that_is_no_yaml_are_parameter_errors(tmp_path: Path) -> None:
    with pytest.raises(ParameterError, match="There is no"):
        load_params(tmp_path / "params.yaml")
    (tmp_path / "params.yaml").write_text("model: [")
    with pytest.raises(ParameterError, match="cannot be read as YAML"):
        load_params(tmp_path / "params.yaml")


def test_a_key_that_is_given_twice_is_told_with_both_lines(tmp_path: Path) -> None:
    """PyYAML takes the last one in silence: the other value would be thought to count."""
    file = tmp_path / "params.yaml"
    file.write_text("base: &base {kimg: 1}\npretrain:\n  <<: *base\n  kimg: 5\n  batch: 16\n  kimg: 60\n")
    with pytest.raises(ParameterError) as told:
        load_params(file)
    for part in (f'"{file}", line 4', "line 6", "'kimg' stands here and above"):
        assert part in str(told.value)


@pytest.mark.parametrize("text", ["2024-13-45", "0x_"])
def test_what_only_looks_like_a_date_or_a_number_is_a_text_or_told(text: str, tmp_path: Path) -> None:
    given = load_params(PARAMS, [f"dataset.target.path={text}"])
    assert given.dataset.target.path == text  # type: ignore[union-attr]
    file = tmp_path / "params.yaml"
    file.write_text(f"dataset: {{source: {{kind: folder, path: {text}}}}}")
    with pytest.raises(ParameterError, match=r"params\.yaml cannot be read as YAML: .*put it in quotes"):
        load_params(file)
    file.write_text(f"dataset: {{source: {{kind: folder, path: '{text}'}}}}")
    assert load_params(file).dataset.source.path == text  # type: ignore[union-attr]


@pytest.mark.parametrize(
    ("given", "text"),
    [('"2024"', "2024"), ("'1e-3'", "1e-3"), ("nan", "nan"), ("infinity", "infinity"), ("*png", "*png")],
)
def test_an_override_in_quotes_is_a_text_and_so_is_what_only_python_takes_for_a_number(given: str, text: str) -> None:
    params = load_params(PARAMS, [f"dataset.target.path={given}"])
    assert params.dataset.target.path == text  # type: ignore[union-attr]


@pytest.mark.parametrize("given", ["1e-3", " 1E-3 ", "1.e-3", ".1e-2", "+1e-3"])
def test_an_override_that_yaml_takes_for_a_text_and_people_for_a_number_is_one(given: str) -> None:
    assert load_params(PARAMS, [f"finetune.lr={given}"]).finetuning().lr == 1e-3


KEYS = [
    f"{field.alias or name}.{key}"
    for name, field in Params.model_fields.items()
    for model in models_of(field.annotation)[:1]
    for key in model.model_fields
]


@pytest.mark.parametrize("key", KEYS)
def test_every_key_may_be_auto(key: str) -> None:
    assert load_params(PARAMS, [f"{key}=auto"])


def test_without_a_family_the_keys_of_model_are_those_of_the_default_one(tmp_path: Path) -> None:
    path = tmp_path / "params.yaml"
    path.write_text("model: {width: 8}")
    assert load_params(path).family == DCGANConfig(width=8)


def test_auto_threads_are_torchs_choice_and_not_the_default() -> None:
    assert load_params(PARAMS).compute.threads == 1
    assert load_params(PARAMS, ["compute.threads=auto"]).compute.threads == "auto"


def test_the_json_schema_numbers_all_properties_as_they_are_declared() -> None:
    """Prefect's form goes by it; a database in between may have sorted them."""
    schema = Params.model_json_schema()
    for section in (schema, *schema["$defs"].values()):
        positions = [item["position"] for item in section["properties"].values()]
        assert positions == list(range(len(positions)))
    assert list(schema["$defs"]["PretrainSection"]["properties"])[:4] == ["kimg", "batch", "lr", "seed"]


def test_latents_too_long_to_be_mixed_come_from_the_prior_unless_that_was_asked_for() -> None:
    vae = ("model.family=vae", "model.latent_dim=1000")
    assert load_params(REPOSITORY / "params.yaml", list(vae)).family.latent_components == 0
    with pytest.raises(ParameterError, match=r"latent_dim is 1000 and model.latent_components is 5; .* at most 256"):
        load_params(REPOSITORY / "params.yaml", [*vae, "model.latent_components=5"])
