import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import pytest

from genxfer.artifacts.fingerprint import digest_file
from genxfer.config import load_params
from genxfer.errors import GenxferError, ParameterError, RegistryError, TrainingError
from genxfer.registry import packaging
from genxfer.registry.config import ModelPackage, RegisterConfig
from genxfer.registry.models import register
from genxfer.registry.pull import download, load_images, registered_snapshot, resolve
from genxfer.stages.origin import pinned
from genxfer.training import snapshot
from tests.conftest import REPOSITORY

if TYPE_CHECKING:
    from mlflow import MlflowClient


def test_images_of_a_folder_depend_on_seed_and_place_alone(tmp_path: Path, write_snapshot: Callable[..., Path]) -> None:
    folder = str(write_snapshot(tmp_path))
    images = load_images(folder, 40, seed=7)
    assert (images.shape, images.dtype) == ((40, 16, 16, 1), np.uint8)
    assert np.array_equal(images[:3], load_images(folder, 3, seed=7))
    assert not np.array_equal(images[:3], load_images(folder, 3, seed=8))


def test_whoever_asks_for_what_is_not_there_learns_what_is(
    client: "MlflowClient", tmp_path: Path, make_package: Callable[..., ModelPackage]
) -> None:
    register(make_package(tmp_path, "fp-pull"), RegisterConfig(name="pulled"))
    for uri, said in {
        "models:/pullled@challenger": "no registered model 'pullled'.*Did you mean 'pulled'",
        "models:/pulled@champion": "no alias 'champion'. Aliases: challenger -> version 1",
        "models:/pulled/9": "no version 9.*versions: 1",
        "models:/pulled": "no model URI. Write models:/NAME@ALIAS",
    }.items():
        with pytest.raises(RegistryError, match=said):
            load_images(uri, 1, 0)


def test_a_name_is_found_among_more_than_a_page_of_registered_models(client: "MlflowClient") -> None:
    for number in range(101):  # MLflow answers with 100 at a time, in the order of their names
        client.create_registered_model(f"crowd-{number:03}")
    client.create_registered_model("wallflower")
    with pytest.raises(RegistryError, match=r"Model 'wallflower' has no version 1"):
        resolve("models:/wallflower/1")
    with pytest.raises(RegistryError, match=r"are: .*crowd-000, .* and \d+ more\. Did you mean 'wallflower'"):
        resolve("models:/wollflower/1")


def test_a_version_says_what_its_files_are_and_an_alias_which_version_it_is(
    client: "MlflowClient", tmp_path: Path, make_package: Callable[..., ModelPackage], monkeypatch: pytest.MonkeyPatch
) -> None:
    check = {name: tmp_path / name for name in ("source_check.safetensors", "source_check.json")}
    for name, path in check.items():
        path.write_text(f"the content of {name}")
    register(replace(make_package(tmp_path / "a", "fp-origin-1"), source_check=check), RegisterConfig(name="origin"))
    second = register(make_package(tmp_path / "b", "fp-origin-2"), RegisterConfig(name="origin"))
    first = registered_snapshot("models:/origin/1")
    assert registered_snapshot("models:/origin@challenger").uri == second.uri == "models:/origin/2"
    assert set(registered_snapshot(second.uri).digests) == {packaging.WEIGHTS_FILE, packaging.DESCRIPTION_FILE}
    assert (packaging.WEIGHTS_FILE, packaging.DESCRIPTION_FILE) == (snapshot.WEIGHTS_FILE, snapshot.DESCRIPTION_FILE)
    folder = download(first.uri, tmp_path / "fetched")
    assert {name: digest_file(folder / name) for name in first.digests} == dict(first.digests)
    assert set(first.digests) == {"snapshot.safetensors", "snapshot.json", *check}
    monkeypatch.setattr("genxfer.registry.pull._in_tables", lambda uri: None)  # as with a tracking server
    assert registered_snapshot("models:/origin@challenger").uri == second.uri
    assert registered_snapshot(first.uri) == first


def test_a_version_that_does_not_fit_is_told_before_anything_runs(
    client: "MlflowClient", tmp_path: Path, make_package: Callable[..., ModelPackage], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    register(make_package(tmp_path / "made", "fp-fits"), RegisterConfig(name="fits"))  # of dcgan, 1 x 16 x 16

    def start(*more: str) -> str:
        values = ["finetune.init_from=models:/fits@challenger", *more]
        return pinned(load_params(REPOSITORY / "params.yaml", values)).finetune.init_from

    with pytest.raises(TrainingError, match=r"family 'dcgan', model\.family is 'vae'"):
        start("model.family=vae")
    with pytest.raises(ParameterError, match=r"'pixels', .*models:/fits/1.* are 1 x 16 x 16 and those"):
        start("evaluate.extractor=pixels")
    assert start("evaluate.extractor=pixels", "dataset.resolution_px=16") == start() == "models:/fits/1"
    monkeypatch.setattr("genxfer.registry.pull.resolve", lambda uri: pytest.fail("it is asked once"))
    with pytest.raises(TrainingError):
        start("model.family=vae")


def test_an_unknown_origin_is_answered_with_what_there_is(
    client: "MlflowClient", tmp_path: Path, make_package: Callable[..., ModelPackage]
) -> None:
    register(make_package(tmp_path, "fp-unknown"), RegisterConfig(name="known"))
    with pytest.raises(RegistryError, match=r"no alias 'champion'\. Aliases: challenger -> version 1"):
        registered_snapshot("models:/known@champion")
    with pytest.raises(RegistryError, match=r"no version 9.*versions: 1"):
        registered_snapshot("models:/known/9")
    client.delete_model_version_tag("known", "1", "genxfer.sha256.snapshot.safetensors")
    with pytest.raises(RegistryError, match="Register the model again"):
        registered_snapshot("models:/known/1")


def test_a_version_whose_files_are_gone_is_said_to_have_lost_them(
    client: "MlflowClient", tmp_path: Path, make_package: Callable[..., ModelPackage]
) -> None:
    model = register(make_package(tmp_path, "fp-lost"), RegisterConfig(name="lost"))
    logged = client.get_logged_model(client.get_run(model.run_id).outputs.model_outputs[0].model_id)
    Path(logged.artifact_location.removeprefix("file://")).rename(tmp_path / "elsewhere")
    with pytest.raises(RegistryError, match=rf"{model.uri} is version 1, but its snapshot\.safetensors is not"):
        load_images(model.uri, 1, 0)


@pytest.mark.parametrize(("n", "seed"), [(0, 0), (-1, 0), (1, -1), (1, 2**32)])
def test_a_number_out_of_range_is_a_wrong_parameter(
    tmp_path: Path, n: int, seed: int, write_snapshot: Callable[..., Path]
) -> None:
    with pytest.raises(ParameterError, match="seed is" if n == 1 else "n is"):
        load_images(str(write_snapshot(tmp_path)), n, seed)


def test_without_a_store_nothing_is_created_by_asking(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    with pytest.raises(RegistryError, match="There is no MLflow store"):
        load_images("models:/genxfer@champion", 1, 0)
    assert not list(tmp_path.iterdir())


def test_a_folder_without_a_snapshot_and_one_of_another_version_are_told_apart(
    tmp_path: Path, write_snapshot: Callable[..., Path]
) -> None:
    with pytest.raises(RegistryError, match=r"has no snapshot\.safetensors and no snapshot\.json"):
        load_images(str(tmp_path), 1, 0)
    with pytest.raises(RegistryError, match="is no folder"):
        load_images(str(tmp_path / "nowhere"), 1, 0)
    description = write_snapshot(tmp_path) / "snapshot.json"
    described = json.loads(description.read_text())
    described["model"]["from_the_future"] = 1
    description.write_text(json.dumps(described))
    with pytest.raises(GenxferError, match=r"does not fit this version of genxfer(.|\n)*from_the_future") as told:
        load_images(str(tmp_path), 1, 0)
    assert "Copy snapshot.safetensors and snapshot.json once more" in str(told.value)
    assert "A registered version" not in str(told.value)


def test_a_version_that_this_genxfer_cannot_load_is_said_to_carry_its_own_code(
    client: "MlflowClient", tmp_path: Path, make_package: Callable[..., ModelPackage]
) -> None:
    package = make_package(tmp_path, "fp-future")
    package.description.write_text(package.description.read_text().replace('"width"', '"from_the_future"'))
    model = register(package, RegisterConfig(name="future"))
    with pytest.raises(RegistryError, match=r"(.|\n)*from_the_future(.|\n)*A registered version carries its own code"):
        load_images(model.uri, 1, 0)


def test_a_registry_apart_from_the_runs_is_asked_and_named(
    client: "MlflowClient", store_uri: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    client.create_registered_model("apart-from-runs")
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("MLFLOW_TRACKING_URI")  # a file that is not there
    monkeypatch.setenv("MLFLOW_REGISTRY_URI", store_uri)
    with pytest.raises(RegistryError, match="Model 'apart-from-runs' has no alias 'champion'"):
        resolve("models:/apart-from-runs@champion")
    with pytest.raises(RegistryError, match=f"no registered model 'nobody' in {store_uri}; "):
        resolve("models:/nobody@champion")
    monkeypatch.setenv("MLFLOW_TRACKING_URI", store_uri)
    monkeypatch.setenv("MLFLOW_REGISTRY_URI", f"sqlite:///{tmp_path}/gone.db")
    with pytest.raises(RegistryError, match=r"no MLflow store .*/gone\.db, .* or set MLFLOW_REGISTRY_URI to"):
        resolve("models:/apart-from-runs@champion")
