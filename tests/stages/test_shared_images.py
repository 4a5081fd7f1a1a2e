"""Held-out images of the target that the source model would be pretrained on: found before it is, and refused."""

import json
import logging
import re
import shutil
from pathlib import Path

import pytest
from PIL import Image

from genxfer.artifacts.store import LocalStore
from genxfer.cli import main
from genxfer.config import Params, load_params
from genxfer.errors import DataError
from genxfer.pipeline import Context, Plan, StageResult, run_stage
from genxfer.stages.dataset import check_apart
from genxfer.stages.table import STAGES
from tests.conftest import REPOSITORY, TINY, write_params
from tests.data.image_files import encoded, pixels

N_TARGET, N_TRAIN = 30, 20
SETTINGS = (
    "dataset.source={kind: folder, path: data/animals}",
    f"dataset.target={{kind: folder, path: data/animals/cats, n_train: {N_TRAIN}}}",
    "pretrain.kimg=0.03",
)


def write_animals(folder: Path) -> None:
    """Write 40 dogs and 30 cats, which are a folder of the animals."""
    for kind, seeds in (("dogs", range(40)), ("cats", range(100, 100 + N_TARGET))):
        (folder / "data" / "animals" / kind).mkdir(parents=True)
        for seed in seeds:
            picture = encoded(Image.fromarray(pixels(seed, 16, 16)), "PNG")
            (folder / "data" / "animals" / kind / f"{kind}{seed}.png").write_bytes(picture)


@pytest.fixture
def animals(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    write_animals(tmp_path)
    return tmp_path


def params(*more: str) -> Params:
    return load_params(REPOSITORY / "params.yaml", [*TINY, *SETTINGS, *more])


def run(folder: Path, name: str, *more: str) -> StageResult:
    return run_stage(STAGES, name, params(*more), Context(LocalStore(folder / "store")))


def packed(folder: Path, *more: str) -> Plan:
    """Pack both domains and return the plan of what comes next."""
    for name in ("dataset_source", "dataset_target"):
        run(folder, name, *more)
    return Plan(STAGES, params(*more), LocalStore(folder / "store"))


def test_a_source_that_contains_the_target_is_refused_before_pretraining(
    animals: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    write_params(animals / "params.yaml", (*TINY, *SETTINGS))
    assert main(["dataset"]) == 0
    assert main(["pretrain"]) == 3
    told = capsys.readouterr().err
    assert f"near-duplicates of {N_TARGET - N_TRAIN} of the target's held-out images" in told
    assert re.search(r"The first: (cats\d+\.png) of the target, cats/\1 of the source; ", told)
    assert "dataset.max_shared allows 0" in told
    assert not (animals / "artifacts" / "pretrain").exists()


def test_what_was_pretrained_before_the_target_was_packed_is_not_gone_on_from(animals: Path) -> None:
    for name in ("dataset_source", "pretrain", "dataset_target"):
        assert run(animals, name).state == "ran"
    for name in ("finetune", "evaluate"):
        with pytest.raises(DataError, match=r"target's held-out images.*dataset\.source\.glob"):
            STAGES[name].guard(Plan(STAGES, params(), LocalStore(animals / "store")))
    with pytest.raises(DataError, match="target's held-out images"):
        run(animals, "finetune")
    assert run(animals, "pretrain").state == "cached"  # what is made already holds: it knows of no target


def test_training_images_may_be_shared_and_a_narrower_source_is_apart(animals: Path) -> None:
    check_apart(packed(animals, "dataset.source.glob=dogs/*"))
    manifest = packed(animals).store.read(run(animals, "dataset_target").record.outputs["manifest.json"])
    trained_on = json.loads(manifest.read_bytes())["arrays"]["train"]["names"]
    (animals / "data" / "other").mkdir()
    for name in trained_on:
        shutil.copy(animals / "data" / "animals" / "cats" / name, animals / "data" / "other")
    check_apart(packed(animals, "dataset.source.path=data/other"))


def test_so_many_as_are_allowed_are_told_and_no_more(animals: Path, caplog: pytest.LogCaptureFixture) -> None:
    with pytest.raises(DataError, match="allows 9"):
        check_apart(packed(animals, "dataset.max_shared=9"))
    with caplog.at_level(logging.WARNING, "genxfer.stages"):
        check_apart(packed(animals, "dataset.max_shared=10"))
    assert "near-duplicates of 10 of the target's held-out images" in caplog.text
    states = [run(animals, name, "dataset.max_shared=11").state for name in ("dataset_source", "dataset_target")]
    assert states == ["cached", "cached"]  # what it allows changes no image


def test_the_digits_of_both_domains_are_apart(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    digits = ["dataset.source={kind: mnist}", "dataset.target={kind: digits, n_train: 100}"]
    check_apart(packed(tmp_path, *digits))


def test_without_pretraining_there_is_nothing_to_compare(animals: Path) -> None:
    plan = packed(animals)
    finetune = plan.params.finetune.model_copy(update={"init_from": "models:/genxfer/1"})
    check_apart(Plan(STAGES, plan.params.model_copy(update={"finetune": finetune}), plan.store))
