"""Where the source model comes from: what is pinned before anything runs, what counts, and what is refused."""

import json
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from genxfer.cli import main
from genxfer.config import Params, load_params
from genxfer.errors import GenxferError, ParameterError, TrainingError
from genxfer.models.config import DCGANConfig
from genxfer.models.family import ImageShape, build_family
from genxfer.stages import STAGES, doors
from genxfer.stages.origin import SNAPSHOT, SOURCE_CHECK, fetch_origin, origin_digests, pinned
from genxfer.training.snapshot import save_snapshot
from tests.conftest import REPOSITORY, TINY, GenxferRun, clean_environment, write_params

ALL = (*SNAPSHOT, *SOURCE_CHECK)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A folder with a snapshot of the default family, and no check."""
    family = build_family(DCGANConfig(width=4), ImageShape(1, 16))
    save_snapshot(tmp_path / "mine", family, images_seen=1000, parent=None)
    return tmp_path / "mine"


def starting_from(where: object, *more: str) -> Params:
    return load_params(REPOSITORY / "params.yaml", [f"finetune.init_from={where}", *more])


def inputs_of(params: Params, stage: str = "finetune") -> dict[str, str]:
    return STAGES[stage].raw(params)


def test_by_default_the_source_model_is_the_stages() -> None:
    params = load_params(REPOSITORY / "params.yaml")
    assert inputs_of(params) == {}
    assert "pretrain" in STAGES["finetune"].inputs(params)
    assert all(stage.enabled(params) for stage in STAGES.values())


def test_with_another_source_model_its_domain_is_not_needed(folder: Path) -> None:
    params = starting_from(folder)
    assert [name for name, stage in STAGES.items() if not stage.enabled(params)] == ["dataset_source", "pretrain"]
    for name in ("finetune", "evaluate", "register"):
        assert not {"dataset_source", "pretrain"} & set(STAGES[name].inputs(params)), name


def test_the_same_weights_are_the_same_input_wherever_they_lie(folder: Path, tmp_path: Path) -> None:
    shutil.copytree(folder, tmp_path / "copy")
    assert inputs_of(starting_from(folder)) == inputs_of(starting_from(tmp_path / "copy"))
    assert set(inputs_of(starting_from(folder))) == {f"pretrain/{file}" for file in SNAPSHOT}
    weights = tmp_path / "copy" / SNAPSHOT[0]
    weights.write_bytes(weights.read_bytes() + b" ")
    assert inputs_of(starting_from(folder)) != inputs_of(starting_from(tmp_path / "copy"))


def test_the_check_is_read_where_there_is_one_and_not_by_the_evaluation(folder: Path) -> None:
    for file in SOURCE_CHECK:
        (folder / file).write_text("x")
    params = starting_from(folder)
    assert set(inputs_of(params)) == {f"pretrain/{file}" for file in ALL}
    assert fetch_origin(ALL, params, Path()) == {f"pretrain/{file}": folder / file for file in ALL}
    assert set(inputs_of(params, "evaluate")) == set(origin_digests(SNAPSHOT, params))


def test_what_is_no_snapshot_is_told_before_anything_runs(folder: Path) -> None:
    with pytest.raises(ParameterError, match=r"finetune\.init_from is .*nowhere', which is no folder.*models:/NAME"):
        pinned(starting_from(folder / "nowhere"))
    (folder / SNAPSHOT[0]).unlink()
    with pytest.raises(ParameterError, match=r"which has no snapshot\.safetensors"):
        doors.current_plan(starting_from(folder))
    with pytest.raises(ParameterError, match=r"finetune\.init_from is 'models:/x'.*models:/NAME@ALIAS"):
        starting_from("models:/x")


@pytest.mark.parametrize(("text", "kind"), [("[]", "list"), ('"dcgan"', "str"), ("null", "NoneType")])
def test_a_description_that_is_none_is_told_before_anything_runs(folder: Path, text: str, kind: str) -> None:
    (folder / SNAPSHOT[1]).write_text(text)
    with pytest.raises(ParameterError, match=rf"finetune\.init_from: .*snapshot\.json holds {kind}, not the desc"):
        pinned(starting_from(folder))


def test_another_family_is_told_before_anything_runs(folder: Path) -> None:
    with pytest.raises(TrainingError, match=r"family 'dcgan', model\.family is 'vae'"):
        pinned(starting_from(folder, "model.family=vae"))


def test_pixels_of_another_size_are_told_before_anything_is_trained(folder: Path) -> None:
    with pytest.raises(
        ParameterError, match=r"extractor is 'pixels', .* are 1 x 16 x 16 and those of dataset 1 x 32 x"
    ):
        doors.preflight(starting_from(folder, "evaluate.extractor=pixels"))
    for fits in (("dataset.resolution_px=16", "evaluate.extractor=pixels"), ("evaluate.extractor=lite0",)):
        doors.preflight(starting_from(folder, *fits))


def test_a_stage_that_another_source_model_leaves_out_says_so(folder: Path) -> None:
    params = starting_from(folder)
    with pytest.raises(ParameterError, match=r"so there is no pretrain to run\. Set finetune\.init_from=pretrain"):
        doors.run_stage("pretrain", params, doors.local_context())


def test_the_folder_to_start_from_is_not_removed(folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """DVC leaves the stage pretrain out by emptying its folder; that may be the one that was named, by any path."""
    monkeypatch.chdir(tmp_path)
    laid_out = shutil.copytree(folder, tmp_path / "artifacts" / "pretrain")
    shutil.copytree(folder, laid_out / "older")
    (tmp_path / "link").symlink_to(laid_out)
    for path in ("artifacts/pretrain", "artifacts/../artifacts/pretrain", "link", "artifacts/pretrain/older"):
        with pytest.raises(ParameterError, match="Copy that folder"):
            doors.leave_out("pretrain", starting_from(path))
        assert (tmp_path / path / SNAPSHOT[0]).exists(), path
    doors.leave_out("pretrain", starting_from(folder))
    assert [path.name for path in laid_out.iterdir()] == ["left_out.json"]
    assert json.loads((laid_out / "left_out.json").read_text()) == {"finetune.init_from": str(folder)}


def test_a_stage_does_not_lay_out_its_result_over_the_model_it_starts_from(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    laid_out = shutil.copytree(folder, tmp_path / "artifacts" / "finetune")
    with pytest.raises(ParameterError, match=r"where finetune lays out its result.*Copy that folder"):
        doors.run_stage("finetune", starting_from("artifacts/finetune"), doors.local_context())
    assert sorted(path.name for path in laid_out.iterdir()) == sorted(path.name for path in folder.iterdir())


@pytest.fixture
def begin(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[[Params], Params]:
    """What every flow does first, in the folder `tmp_path`; the logs of this process stay as they are."""
    from flows import begin as module

    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(module, "connect", lambda: None)
    return module.begin


@pytest.mark.parametrize("stage", ["finetune", "baseline", "evaluate"])
def test_a_flow_refuses_before_its_first_stage_what_a_later_one_would_lay_its_result_over(
    stage: str, folder: Path, tmp_path: Path, begin: Callable[[Params], Params]
) -> None:
    shutil.copytree(folder, tmp_path / "artifacts" / stage)
    params = starting_from(f"artifacts/{stage}")
    with pytest.raises(ParameterError, match=rf"where {stage} lays out its result.*Copy that folder"):
        begin(params)
    if stage == "baseline":
        without = starting_from("artifacts/baseline", "baseline.enabled=false")
        assert begin(without) == without  # nothing is laid out there


def test_a_flow_may_start_from_what_lies_where_it_lays_out_nothing(
    folder: Path, tmp_path: Path, begin: Callable[[Params], Params]
) -> None:
    shutil.copytree(folder, tmp_path / "artifacts" / "pretrain")
    params = starting_from("artifacts/pretrain")
    assert begin(params) == params


@pytest.mark.parametrize("verb", ["run", "compare"])
def test_a_verb_that_runs_a_flow_refuses_it_before_anything_is_started(
    verb: str, folder: Path, workspace: Path, genxfer: GenxferRun
) -> None:
    shutil.copytree(folder, workspace / "artifacts" / "finetune")
    done = genxfer(workspace, verb, "-S", "finetune.init_from=artifacts/finetune", "-S", "finetune.freeze=auto")
    assert done.returncode == 2, done.stderr
    assert "where finetune lays out its result" in done.stderr
    assert not (workspace / ".prefect").exists()


@pytest.mark.parametrize(("verb", "folder"), [("pretrain", "pretrain"), ("dataset", "dataset_source")])
@pytest.mark.parametrize("where", ["no/such/folder", "artifacts/dataset_target"])
def test_a_mistake_leaves_what_a_stage_laid_out_that_is_turned_off(
    verb: str, folder: str, where: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    write_params(tmp_path / "params.yaml", TINY)
    former = tmp_path / "artifacts" / folder / "preview.png"
    former.parent.mkdir(parents=True)
    former.write_bytes(b"")
    assert main([verb, "-S", f"finetune.init_from={where}"]) == 2
    assert [path.name for path in former.parent.iterdir()] == ["preview.png"]


@pytest.mark.slow
def test_dvc_does_not_remove_the_folder_to_start_from(folder: Path, make_clone: Callable[..., Path]) -> None:
    """It removes what a stage made before it starts the verb, which then refuses too late."""
    clone = make_clone("finetune.init_from=artifacts/pretrain")
    laid_out = shutil.copytree(folder, clone / "artifacts" / "pretrain")
    before = {path.name: path.read_bytes() for path in laid_out.iterdir()}

    def reproduce() -> "subprocess.CompletedProcess[str]":
        command = [sys.executable, "-m", "dvc", "repro", "pretrain"]
        environment = clean_environment(clone) | {"PYTHONPATH": str(clone)}
        return subprocess.run(command, cwd=clone, env=environment, capture_output=True, text=True)

    refused = reproduce()
    assert refused.returncode != 0
    assert "Copy that folder to another place" in refused.stderr
    assert {path.name: path.read_bytes() for path in laid_out.iterdir()} == before
    shutil.copytree(laid_out, clone / "mine")
    write_params(clone / "params.yaml", (*TINY, "finetune.init_from=mine"))
    done = reproduce()
    assert done.returncode == 0, done.stdout + done.stderr
    assert [path.name for path in laid_out.iterdir()] == ["left_out.json"]


def test_an_unknown_version_is_no_such_model(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    with pytest.raises(GenxferError, match="There is no MLflow store"):
        pinned(starting_from("models:/genxfer@champion"))
    assert not list(tmp_path.iterdir())
