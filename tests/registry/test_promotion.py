"""Promotion and rollback in a real MLflow store: which version is champion, and what is written about it."""

import json
import os
import subprocess
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
import torch
from safetensors.torch import load_file, save_file

from genxfer.errors import ParameterError, RegistryError
from genxfer.registry import promotion
from genxfer.registry.champions import HISTORY_TAG, up_to, with_decision
from genxfer.registry.config import ModelPackage, PromoteConfig, RegisterConfig
from genxfer.registry.loading import Drawn, draw_apart
from genxfer.registry.models import register
from genxfer.registry.promotion import promote, rollback
from tests.conftest import REPOSITORY
from tests.registry.test_rule import MEASURED

if TYPE_CHECKING:
    from mlflow import MlflowClient

RULE = PromoteConfig(images=2)
Registered = Callable[..., str]


@pytest.fixture
def registered(client: "MlflowClient", tmp_path: Path, make_package: Callable[..., ModelPackage]) -> Registered:
    """A function that registers one more version of a model, with what was measured of it, and returns its number."""

    def one(name: str, kid: float, **changed: Any) -> str:
        made = len(client.search_model_versions(f"name='{name}'"))
        package = make_package(tmp_path / f"{name}-{made}", f"fp-{name}-{made}")
        measured = MEASURED | {"kid": kid} | changed
        return register(replace(package, measured=measured), RegisterConfig(name=name)).version

    return one


@pytest.fixture
def without_loading(monkeypatch: pytest.MonkeyPatch) -> None:
    """Where the aliases are tested alone: loading takes seconds, and is tested with the rest."""
    monkeypatch.setattr(promotion, "draw_apart", lambda name, versions, n: [Drawn(None) for _ in versions])


def aliases(client: "MlflowClient", name: str) -> dict[str, str]:
    return {alias: str(version) for alias, version in client.get_registered_model(name).aliases.items()}


@pytest.mark.slow
def test_a_better_challenger_becomes_champion_with_the_reason_on_it(
    client: "MlflowClient", registered: Registered
) -> None:
    first, second = registered("better", 0.2), registered("better", 0.1)
    client.set_registered_model_alias("better", "champion", first)
    outcome = promote("better", "challenger", RULE)
    assert (outcome.state, outcome.champion, outcome.former) == ("promoted", second, first)
    assert outcome.images[first].shape == outcome.images[second].shape == (2, 16, 16, 1)
    assert aliases(client, "better") == {"challenger": second, "champion": second, "previous": first}
    version = client.get_model_version("better", second)
    assert f"KID 0.1 ± 0.01 against 0.2 ± 0.01 of version {first}" in version.tags["genxfer.promoted.why"]
    assert version.tags["genxfer.promoted.in_place_of"] == first
    assert json.loads(version.tags["genxfer.promoted.rule"])["confidence"] == 0.95
    assert f"promoted in place of version {first}. KID 0.1" in version.description
    assert client.get_model_version("better", first).tags["genxfer.replaced_by"] == second


@pytest.mark.slow
def test_a_challenger_that_is_no_better_or_does_not_load_leaves_everything_as_it_was(
    client: "MlflowClient", registered: Registered, tmp_path: Path, make_package: Callable[..., ModelPackage]
) -> None:
    first = registered("worse", 0.2)
    client.set_registered_model_alias("worse", "champion", first)
    package = make_package(tmp_path / "nan", "fp-nan")
    weights = load_file(package.weights)
    save_file(
        {name: values * torch.nan if values.is_floating_point() else values for name, values in weights.items()},
        package.weights,
    )
    second = register(replace(package, measured=MEASURED | {"kid": 0.19}), RegisterConfig(name="worse")).version
    before = dict(client.get_model_version("worse", second).tags)
    outcome = promote("worse", "challenger", RULE)
    assert (outcome.state, outcome.champion, outcome.challenger) == ("not promoted", first, second)
    assert "does not lie above 0" in outcome.reason
    assert "It cannot be used: its weights are not finite" in outcome.reason
    assert list(outcome.images) == [first]
    assert aliases(client, "worse") == {"challenger": second, "champion": first}
    assert client.get_model_version("worse", second).tags == before


@pytest.mark.slow
def test_versions_are_drawn_from_in_processes_of_their_own_by_their_own_code_with_pickle_refused(
    client: "MlflowClient", registered: Registered, tmp_path: Path
) -> None:
    good, gone, altered, pickled = (registered("apart", 0.2) for _ in range(4))
    folders = {version: _model_folder(client, version) for version in (gone, altered, pickled)}
    (folders[gone] / "artifacts" / "snapshot.safetensors").unlink()
    dataset = folders[altered] / "code" / "genxfer" / "data" / "dataset.py"
    dataset.write_text(dataset.read_text() + '\n\nraise RuntimeError("the code of this version alone")\n')
    _pickle(folders[pickled])
    drawn = dict(
        zip((good, gone, altered, pickled), draw_apart("apart", [good, gone, altered, pickled], 3), strict=True)
    )
    assert drawn[good].fault is None
    assert drawn[good].images is not None
    assert drawn[good].images.shape == (3, 16, 16, 1)
    assert "has no snapshot.safetensors" in str(drawn[gone].fault)
    assert "the code of this version alone" in str(drawn[altered].fault)
    assert "pickle" in str(drawn[pickled].fault).lower()


@pytest.mark.slow
def test_the_code_of_a_version_sees_no_secret_of_who_asks(
    client: "MlflowClient", registered: Registered, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    version = registered("spying", 0.2)
    seen = tmp_path / "seen.json"
    dataset = _model_folder(client, version, "spying") / "code" / "genxfer" / "data" / "dataset.py"
    spying = f"import json, os\n\nopen({str(seen)!r}, 'w').write(json.dumps(dict(os.environ)))\n"
    dataset.write_text(f"{dataset.read_text()}\n\n{spying}")
    names = (
        "AWS_SECRET_ACCESS_KEY",
        "MLFLOW_TRACKING_PASSWORD",
        "PREFECT_API_AUTH_STRING",
        "GENXFER_WEBHOOK_URL",
        "TOKEN",
    )
    for name in names:
        monkeypatch.setenv(name, "of-who-asks")
    [drawn] = draw_apart("spying", [version], 3)
    assert drawn.fault is None
    environment = json.loads(seen.read_text())
    assert environment["PATH"] == os.environ["PATH"]
    assert not set(names) & set(environment)
    assert "of-who-asks" not in str(environment)


def _model_folder(client: "MlflowClient", version: str, name: str = "apart") -> Path:
    logged = client.get_model_version(name, version).source.rpartition("/")[2]
    return Path(client.get_logged_model(logged).artifact_location.removeprefix("file://"))


def _pickle(folder: Path) -> None:
    """Make the version one that would have to be unpickled, as MLflow writes them by default."""
    import mlflow.pyfunc

    class Unpickled(mlflow.pyfunc.PythonModel):  # type: ignore[misc]
        def predict(self, context, model_input, params=None):  # type: ignore[no-untyped-def]
            return model_input

    mlflow.pyfunc.save_model(folder.with_name("pickled"), python_model=Unpickled())
    for path in folder.with_name("pickled").iterdir():
        path.replace(folder / path.name)


@pytest.mark.usefixtures("without_loading")
def test_the_first_champion_and_a_dry_run(client: "MlflowClient", registered: Registered) -> None:
    first = registered("first", 0.2)
    outcome = promote("first", "challenger", RULE)
    assert (outcome.state, outcome.champion, outcome.former) == ("promoted", first, None)
    assert aliases(client, "first") == {"challenger": first, "champion": first}
    assert "transfer gain is 2" in client.get_model_version("first", first).tags["genxfer.promoted.why"]

    again = promote("first", "challenger", RULE)
    assert (again.state, again.reason) == ("already champion", f"Version {first} is the champion already.")

    second = registered("first", 0.1)
    tried = promote("first", "challenger", RULE, dry_run=True)
    assert (tried.state, tried.dry_run) == ("promoted", True)
    assert aliases(client, "first") == {"challenger": second, "champion": first}
    assert "genxfer.promoted" not in client.get_model_version("first", second).tags


@pytest.mark.usefixtures("without_loading")
def test_rollbacks_go_back_through_all_champions_and_then_say_that_there_is_none(
    client: "MlflowClient", registered: Registered
) -> None:
    versions = []
    for kid in (0.3, 0.2, 0.1):
        versions.append(registered("back", kid))
        assert promote("back", "challenger", RULE).state == "promoted"
    first, second, third = versions

    assert rollback("back", "just looking", dry_run=True).champion == second
    assert aliases(client, "back")["champion"] == third

    outcome = rollback("back", "it draws only threes")
    assert (outcome.state, outcome.champion, outcome.former) == ("rolled back", second, third)
    assert aliases(client, "back") == {"challenger": third, "champion": second, "previous": first}
    left, restored = (client.get_model_version("back", version) for version in (third, second))
    assert "it draws only threes" in left.tags["genxfer.rolled_back"]
    assert f"rolled back to version {second}" in left.description
    assert "it draws only threes" in restored.tags["genxfer.promoted.why"]

    rollback("back", "that one too")
    assert aliases(client, "back") == {"challenger": third, "champion": first}
    with pytest.raises(RegistryError, match=f"Version {first} of 'back' is champion, and none was before it"):
        rollback("back", "and again")
    assert aliases(client, "back")["champion"] == first


@pytest.mark.usefixtures("without_loading")
def test_what_was_rolled_back_does_not_come_back_by_itself(client: "MlflowClient", registered: Registered) -> None:
    first = registered("returns", 0.3)
    promote("returns", "challenger", RULE)
    second = registered("returns", 0.1)
    promote("returns", "challenger", RULE)
    rollback("returns", "it draws only threes")
    outcome = promote("returns", "challenger", RULE)
    assert (outcome.state, outcome.champion) == ("not promoted", first)
    assert "it draws only threes" in outcome.reason
    assert "delete the version's tag genxfer.rolled_back." in outcome.reason
    client.delete_model_version_tag("returns", second, "genxfer.rolled_back")
    assert promote("returns", "challenger", RULE).champion == second


@pytest.mark.usefixtures("without_loading")
def test_a_champion_that_was_deleted_or_set_by_hand_leaves_no_wrong_history(
    client: "MlflowClient", registered: Registered
) -> None:
    first, by_hand = registered("hand", 0.3), registered("hand", 0.2)
    client.set_registered_model_alias("hand", "challenger", first)
    promote("hand", "challenger", RULE)
    client.set_registered_model_alias("hand", "champion", by_hand)
    third = registered("hand", 0.05)
    promote("hand", "challenger", RULE)
    assert json.loads(client.get_registered_model("hand").tags[HISTORY_TAG]) == [first, by_hand, third]
    client.delete_model_version("hand", by_hand)
    assert rollback("hand", "").champion == first


@pytest.mark.usefixtures("without_loading")
def test_a_promotion_killed_before_the_alias_moved_is_as_if_it_had_not_been(
    client: "MlflowClient", registered: Registered
) -> None:
    first = registered("killed", 0.3)
    promote("killed", "challenger", RULE)
    second = registered("killed", 0.1)
    client.set_registered_model_tag("killed", HISTORY_TAG, json.dumps([first, second]))  # what it has done by then
    with pytest.raises(RegistryError, match="nothing to roll back to"):
        rollback("killed", "")
    assert promote("killed", "challenger", RULE).state == "promoted"
    assert rollback("killed", "").champion == first


def test_an_alias_that_moved_while_the_models_were_loaded_stops_the_promotion(
    client: "MlflowClient", registered: Registered, monkeypatch: pytest.MonkeyPatch
) -> None:
    first = registered("moved", 0.3)

    def meanwhile(name: str, versions: list[str], n: int) -> list[Drawn]:
        client.set_registered_model_alias("moved", "champion", first)
        return [Drawn(None) for _ in versions]

    second = registered("moved", 0.1)
    monkeypatch.setattr(promotion, "draw_apart", meanwhile)
    with pytest.raises(RegistryError, match=f"champion was None and is {first}. Nothing was changed"):
        promote("moved", "challenger", RULE)
    assert aliases(client, "moved") == {"challenger": second, "champion": first}
    assert "genxfer.promoted" not in client.get_model_version("moved", second).tags


@pytest.mark.usefixtures("without_loading")
def test_an_alias_that_moved_meanwhile_stops_a_rollback(
    client: "MlflowClient", registered: Registered, monkeypatch: pytest.MonkeyPatch
) -> None:
    for kid in (0.3, 0.1):
        registered("raced", kid)
        promote("raced", "challenger", RULE)
    third, read = registered("raced", 0.2), promotion.history

    def meanwhile(client: "MlflowClient", name: str) -> list[str]:
        past = read(client, name)
        client.set_registered_model_alias(name, "champion", third)
        return past

    monkeypatch.setattr(promotion, "history", meanwhile)
    with pytest.raises(RegistryError, match=r"champion was 2 and is 3. Nothing was changed"):
        rollback("raced", "it draws only threes")
    assert aliases(client, "raced")["champion"] == third
    assert not any("genxfer.rolled_back" in client.get_model_version("raced", one).tags for one in ("1", "2", "3"))


@pytest.mark.usefixtures("without_loading")
def test_a_rollback_that_fails_leaves_the_champion_unmarked(
    client: "MlflowClient", registered: Registered, monkeypatch: pytest.MonkeyPatch
) -> None:
    for kid in (0.3, 0.1):
        registered("stuck", kid)
        promote("stuck", "challenger", RULE)

    def refused(*_: object) -> None:
        raise PermissionError("the alias is protected")

    with monkeypatch.context() as patch:
        patch.setattr(promotion, "move_back", refused)
        with pytest.raises(RegistryError, match="the alias is protected"):
            rollback("stuck", "it draws only threes")
    left = client.get_model_version("stuck", "2")
    assert aliases(client, "stuck")["champion"] == "2"
    assert "genxfer.rolled_back" not in left.tags
    assert "rolled back to version" not in left.description
    assert rollback("stuck", "it draws only threes").champion == "1"


@pytest.mark.usefixtures("without_loading")
@pytest.mark.parametrize("broken", ["update_model_version", "previous", "set_registered_model_tag"])
def test_once_the_alias_has_moved_what_cannot_be_written_is_a_warning(
    client: "MlflowClient",
    registered: Registered,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
    broken: str,
) -> None:
    name = f"after-{broken}"
    for kid in (0.3, 0.2):
        registered(name, kid)
        promote(name, "challenger", RULE)
    third, used = registered(name, 0.1), promotion.connect()
    method = "set_registered_model_alias" if broken == "previous" else broken
    works = getattr(used, method)

    def breaks(*words: Any, **named: Any) -> Any:
        if aliases(client, name)["champion"] != before and (broken != "previous" or "previous" in words):
            raise ConnectionResetError("the server http://ann:secret@host went away")
        return works(*words, **named)

    monkeypatch.setattr(used, method, breaks)
    before = "2"
    told = promote(name, "challenger", RULE)
    assert (told.state, told.champion, told.former) == ("promoted", third, "2")
    assert aliases(client, name)["champion"] == third
    before = third
    told = rollback(name, "it draws only threes")
    assert (told.state, told.champion, aliases(client, name)["champion"]) == ("rolled back", "2", "2")
    warnings = [record.getMessage() for record in caplog.records if record.levelname == "WARNING"]
    assert len(warnings) == (1 if broken == "set_registered_model_tag" else 2)  # a promotion writes that tag first
    for said in warnings:
        assert said.startswith(f"The champion of {name!r} has changed, but ")
        assert said.endswith("could not be written: the server http://host went away. Mend it in MLflow.")


def test_what_is_not_there_is_said(client: "MlflowClient", registered: Registered) -> None:
    registered("said", 0.3)
    with pytest.raises(RegistryError, match=r"no registered model 'sad'.*Did you mean 'said'"):
        promote("sad", "challenger", RULE)
    with pytest.raises(RegistryError, match=r"no alias 'champion'\. Aliases: challenger -> version 1"):
        rollback("said", "")
    with pytest.raises(ParameterError, match=r"register\.alias is 'champion'"):
        promote("said", "champion", RULE)


def test_history_is_read_as_far_as_the_alias() -> None:
    assert up_to(["1", "3", "5"], "5") == ["1", "3", "5"]
    assert up_to(["1", "3", "5"], "3") == ["1", "3"]
    assert up_to(["1", "3", "1", "5"], "1") == ["1", "3", "1"]
    assert up_to(["1", "3"], "9") == ["1", "3", "9"]
    assert up_to([], "1") == ["1"]


def test_decisions_never_make_a_description_longer_than_mlflow_takes() -> None:
    text = "The card. " * 400
    for number in range(50):
        text = with_decision(text, f"- decision {number}: " + "because " * 20)
        assert len(text) <= 5000
        assert f"- decision {number}: " in text
    assert text.startswith("The card. The card.")
    assert text.count("## Decisions") == 1
    assert "decision 48" in text
    assert "decision 0:" not in text


def test_the_rule_is_read_without_mlflow_and_torch() -> None:
    script = "import sys, genxfer.registry.rule; print([n for n in ('mlflow', 'torch', 'numpy') if n in sys.modules])"
    done = subprocess.run([sys.executable, "-c", script], cwd=REPOSITORY, capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"
