import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from genxfer.errors import RegistryError
from genxfer.registry.config import ModelPackage, RegisterConfig, RegisteredModel
from genxfer.registry.models import find_version, register
from genxfer.registry.pull import download

if TYPE_CHECKING:
    from mlflow import MlflowClient

ABSENT = Path("absent.png")


def test_a_registered_version_carries_its_numbers_data_lineage_and_pictures(
    client: "MlflowClient", tmp_path: Path, capfd: pytest.CaptureFixture[str], make_package: Callable[..., ModelPackage]
) -> None:
    package = make_package(tmp_path, "fp-evidence")
    _, target, test = package.datasets
    model = register(package, RegisterConfig(name="evidence"))

    assert capfd.readouterr().out == ""
    version = client.get_model_version_by_alias("evidence", "challenger")
    assert (str(version.version), version.run_id, version.status) == (model.version, model.run_id, "READY")
    assert model.uri == f"models:/evidence/{model.version}"
    assert version.tags["genxfer.fingerprint"] == "fp-evidence"
    assert version.tags["genxfer.lineage.pretrain"] == "1" * 64
    assert version.tags["genxfer.dataset.test"] == test.digest
    assert version.tags["genxfer.dvc_md5.target"] == target.dvc_md5
    assert (version.tags["mlflow.source.git.commit"], version.tags["mlflow.source.git.dirty"]) == ("f" * 40, "true")
    assert version.tags["kid"] == "0.0125"

    run = client.get_run(model.run_id)
    assert run.info.status == "FINISHED"
    assert [file.path for file in client.list_artifacts(model.run_id)] == ["samples.png"]
    logged = client.get_logged_model(run.outputs.model_outputs[0].model_id)
    assert logged.status == "READY"
    measured = {metric.key: (metric.value, metric.dataset_name, metric.dataset_digest) for metric in logged.metrics}
    assert measured["kid"] == (0.0125, test.name, test.digest[:32])


def test_registering_the_same_fingerprint_again_makes_no_second_version(
    client: "MlflowClient", tmp_path: Path, make_package: Callable[..., ModelPackage]
) -> None:
    config = RegisterConfig(name="twice")
    first = register(make_package(tmp_path / "1", "fp-first"), config)
    second = register(make_package(tmp_path / "2", "fp-second"), config)
    again = register(make_package(tmp_path / "1", "fp-first"), config)

    assert again == first != second
    assert len(client.search_model_versions("name='twice'")) == 2
    # The alias is on what was registered last, as the user asked for it.
    assert str(client.get_model_version_by_alias("twice", "challenger").version) == first.version


@pytest.mark.parametrize("asking_mlflow", [False, True])
def test_a_version_is_found_by_its_fingerprint_alone(
    client: "MlflowClient",
    store_uri: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    asking_mlflow: bool,
    make_package: Callable[..., ModelPackage],
) -> None:
    name = f"found-{asking_mlflow}"
    model = register(make_package(tmp_path, "fp-found"), RegisterConfig(name=name))
    if asking_mlflow:  # the tables are read directly only where they are known to be the registry's
        monkeypatch.setenv("MLFLOW_REGISTRY_URI", store_uri)
    assert find_version(name, "fp-found") == model == RegisteredModel(name, model.version, model.run_id)
    assert find_version(name, "fp-other") is None
    assert find_version("nobody", "fp-found") is None
    client.delete_model_version(name, model.version)
    assert find_version(name, "fp-found") is None


def test_an_interrupted_registration_leaves_no_alias_and_a_second_attempt_succeeds(
    client: "MlflowClient", tmp_path: Path, make_package: Callable[..., ModelPackage]
) -> None:
    config = RegisterConfig(name="interrupted")
    package = make_package(tmp_path, "fp-interrupted")
    with pytest.raises(RegistryError, match=r"Registering 'interrupted' failed.*absent\.png"):
        register(replace(package, files={"samples.png": ABSENT}), config)
    assert client.search_model_versions("name='interrupted'") == []

    # Killed between the creation of a version and its last tag.
    logged = client.search_logged_models([client.get_experiment_by_name("genxfer").experiment_id])[0]
    client.create_model_version(
        "interrupted", logged.model_uri, model_id=logged.model_id, tags={"genxfer.unfinished": "fp-interrupted"}
    )
    assert find_version("interrupted", "fp-interrupted") is None

    model = register(package, config)
    versions = client.search_model_versions("name='interrupted'")
    assert [str(version.version) for version in versions] == [model.version]
    assert str(client.get_model_version_by_alias("interrupted", "challenger").version) == model.version


def test_a_version_in_the_making_is_removed_by_nobody_with_another_store(
    client: "MlflowClient", tmp_path: Path, make_package: Callable[..., ModelPackage]
) -> None:
    config, package = RegisterConfig(name="two-stores"), make_package(tmp_path, "fp-two-stores")
    client.create_registered_model("two-stores")
    unfinished = {"genxfer.unfinished": "fp-two-stores"}
    hers, left = (
        str(
            client.create_model_version(
                "two-stores", str(tmp_path), tags={**unfinished, "genxfer.store": store}
            ).version
        )
        for store in ("hers", "his")
    )
    model = register(package, config, store="his")
    versions = {str(version.version) for version in client.search_model_versions("name='two-stores'")}
    assert versions == {hers, model.version}
    assert left != model.version


def test_the_card_lies_beside_the_weights_and_shortened_on_the_version(
    client: "MlflowClient", tmp_path: Path, make_package: Callable[..., ModelPackage]
) -> None:
    package = replace(
        make_package(tmp_path / "made", "fp-card"),
        card="# The whole\n\n![samples](samples.png)\n",
        short_card="# In short\n\n![samples](samples.png)",
        measured={"kid": 0.0125000001, "notes": []},
    )
    model = register(package, RegisterConfig(name="carded"))
    version = client.get_model_version("carded", model.version)
    picture = f"get-artifact?path=samples.png&run_uuid={model.run_id}"
    assert version.description == f"# In short\n\n![samples]({picture})"
    assert json.loads(version.tags["genxfer.measured"]) == {"kid": 0.0125000001, "notes": []}
    assert {file.path for file in client.list_artifacts(model.run_id)} == {"samples.png", "model_card.md"}
    folder = download(model.uri, tmp_path / "pulled").parent
    assert (folder / "model_card.md").read_text() == package.card
    assert (folder / "samples.png").read_bytes() == b"a picture"
