"""The command line as a user meets it: help, mistakes, exit codes, and the verbs on a tiny configuration."""

import json
import os
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from genxfer import cli
from tests.conftest import REPOSITORY, GenxferRun, clean_environment


def everything_in(folder: Path) -> set[Path]:
    return {path for path in folder.rglob("*") if ".prefect" not in path.parts}


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        (["run", "-S", "finetune.kimgs=3"], "Did you mean 'kimg'?"),
        (["pretrain", "-S", "model.family=dcgann"], "Did you mean 'dcgan'?"),
        (["run", "-S", "dataset.target.n_train=5000"], "dataset.target.n_train is 5000"),
        (["run", "-S", "dataset.resolution_px=48"], "dataset.resolution_px is 48"),
        (["plan", "--params", "nowhere.yaml"], "There is no nowhere.yaml"),
        (["explain", "pretrian"], "Did you mean 'pretrain'?"),
        (["sample", "artifacts/finetune", "-n", "0"], "-n is 0"),
        (["dataset", "sauce"], "invalid choice"),
        (["frobnicate"], "invalid choice"),
    ],
)
def test_a_mistake_ends_with_code_2_one_message_and_nothing_written(
    workspace: Path, genxfer: GenxferRun, arguments: list[str], expected: str
) -> None:
    before = everything_in(workspace)
    done = genxfer(workspace, *arguments)
    assert done.returncode == 2, done.stderr
    assert expected in done.stderr
    assert "Traceback" not in done.stderr
    assert done.stdout == ""
    assert everything_in(workspace) == before


@pytest.mark.parametrize(("verb", "code"), [("plan", 0), ("status", 1)])
def test_a_reader_that_goes_away_changes_no_exit_code(workspace: Path, verb: str, code: int) -> None:
    (workspace / "prefect.yaml").touch()  # of a stack that does not run
    reader, writer = os.pipe()
    os.close(reader)
    command = [sys.executable, "-m", "genxfer", verb]
    environment = clean_environment(workspace) | {"PYTHONUNBUFFERED": ""}
    done = subprocess.run(command, cwd=workspace, env=environment, stdout=writer, stderr=subprocess.PIPE, text=True)
    os.close(writer)
    (workspace / "prefect.yaml").unlink()
    assert (done.returncode, done.stderr) == (code, "")


def without_a_reader_of_stderr(code: str, *arguments: str, folder: Path) -> int:
    """Return the exit code of `code` with these arguments, in a process whose stderr nobody reads any more."""
    reader, writer = os.pipe()
    os.close(reader)
    environment = clean_environment(folder) | {"PYTHONPATH": str(REPOSITORY)}
    command = [sys.executable, "-c", code, *arguments]
    done = subprocess.run(command, cwd=folder, env=environment, stdout=subprocess.PIPE, stderr=writer)
    os.close(writer)
    assert done.stdout == b""
    return done.returncode


@pytest.mark.parametrize(
    ("line", "said"),
    [
        *(
            (line, "goes on from the last checkpoint")
            for line in ("run", "compare", "pretrain", "finetune", "baseline")
        ),
        *((line, "begins this stage again") for line in ("dataset source", "evaluate", "register")),
        *((line, "") for line in ("plan", "explain pretrain")),
    ],
)
def test_what_the_same_command_does_after_an_interruption_is_said_of_each_verb(
    line: str, said: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def interrupted(*arguments: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr("genxfer.cli._params", interrupted)
    assert cli.main(line.split()) == 130
    assert capsys.readouterr().err == f"genxfer: interrupted{said and f'; the same command {said}'}.\n"


# The verb sends the signal to itself, and takes what becomes of it for the failure of one variant, as a task would.
SIGNALLED = """
import os, signal, sys
from genxfer import cli
def plan(parsed):
    try:
        os.kill(os.getpid(), signal.{name})
        signal.pause()
    except Exception:
        pass
cli._plan = plan
sys.exit(cli.main(["plan"]))
"""


@pytest.mark.parametrize(("name", "code"), [("SIGTERM", 143), ("SIGINT", 130)])
def test_a_signal_ends_the_run_with_its_code_when_nobody_reads_stderr(name: str, code: int, tmp_path: Path) -> None:
    assert without_a_reader_of_stderr(SIGNALLED.format(name=name), folder=tmp_path) == code


@pytest.mark.parametrize(("first", "code"), [(signal.SIGTERM, 143), (signal.SIGHUP, 129)])
def test_what_is_let_go_on_a_signal_is_not_interrupted_by_another(
    first: int, code: int, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    let_go = []

    def plan(parsed: object) -> None:
        try:
            signal.raise_signal(first)
        finally:
            signal.raise_signal(signal.SIGHUP)
            signal.raise_signal(signal.SIGTERM)
            let_go.append("the lock")

    monkeypatch.setattr(cli, "_plan", plan)
    with pytest.raises(SystemExit) as ended:
        cli.main(["plan"])
    assert (ended.value.code, let_go) == (code, ["the lock"])
    assert capsys.readouterr().err == "genxfer: terminated.\n"


def test_a_mistake_keeps_its_code_when_nobody_reads_stderr(workspace: Path) -> None:
    main = "import sys; from genxfer.cli import main; sys.exit(main())"
    assert without_a_reader_of_stderr(main, "plan", "-S", "finetune.kimg=-1", folder=workspace) == 2


def test_a_stage_without_its_input_names_the_verb_that_makes_it(workspace: Path, genxfer: GenxferRun) -> None:
    done = genxfer(workspace, "pretrain")
    assert done.returncode == 1
    assert "genxfer dataset source" in done.stderr
    assert "Traceback" not in done.stderr


def test_a_stage_that_is_turned_off_lays_out_nothing_of_a_former_run(workspace: Path, genxfer: GenxferRun) -> None:
    former = workspace / "artifacts" / "baseline" / "samples.png"
    former.parent.mkdir(parents=True)
    former.write_bytes(b"")
    done = genxfer(workspace, "baseline", "-S", "baseline.enabled=false")
    assert done.returncode == 0, done.stderr
    assert "left out" in done.stderr
    assert [path.name for path in former.parent.iterdir()] == ["left_out.json"]


def test_a_folder_that_cannot_be_written_is_a_store_error(workspace: Path, genxfer: GenxferRun) -> None:
    (workspace / "artifacts").write_text("")
    done = genxfer(workspace, "baseline", "-S", "baseline.enabled=false")
    assert done.returncode == 4, done.stderr
    assert "It could not be written that baseline is left out" in done.stderr
    assert "Traceback" not in done.stderr


def test_a_folder_that_is_not_there_is_a_data_error(workspace: Path, genxfer: GenxferRun) -> None:
    done = genxfer(workspace, "dataset", "source", "-S", "dataset.source={kind: folder, path: data/none}")
    assert done.returncode == 3, done.stderr
    assert "data/none" in done.stderr


def test_a_store_that_is_no_folder_is_a_store_error(workspace: Path, genxfer: GenxferRun) -> None:
    (workspace / "file").write_text("")
    done = genxfer(workspace, "plan", GENXFER_STORE="file")
    assert done.returncode == 4, done.stderr
    assert "GENXFER_STORE" in done.stderr


def test_dataset_packs_both_domains_and_lays_the_target_images_out(
    make_workspace: Callable[..., Path], genxfer: GenxferRun
) -> None:
    folder = make_workspace("dataset.target.n_train=20")
    done = genxfer(folder, "dataset", "--json")
    assert done.returncode == 0, done.stderr
    assert {name: entry["state"] for name, entry in json.loads(done.stdout).items()} == {
        "dataset_source": "ran",
        "dataset_target": "ran",
    }
    assert len(list((folder / "data" / "target").glob("*.png"))) == 20
    manifest = json.loads((folder / "artifacts" / "dataset_target" / "manifest.json").read_text())
    counts = {part: array["n"] for part, array in manifest["arrays"].items()}
    assert counts == {"train": 20, "validation": 256, "test": 1521 - manifest["left_out"]["n"]}
    assert manifest["left_out"]["n"] < 10
    assert (folder / "artifacts" / "dataset_source" / "preview.png").exists()

    again = genxfer(folder, "dataset", "target", "--json")
    assert json.loads(again.stdout)["dataset_target"]["state"] == "cached"

    # What a user does to the laid-out images is never overlooked, and never overwritten.
    changed = next((folder / "data" / "target").glob("*.png"))
    changed.write_bytes(b"mine")
    refused = genxfer(folder, "dataset", "target")
    assert refused.returncode == 3
    assert "dataset.target.kind=folder" in refused.stderr
    assert changed.read_bytes() == b"mine"

    changed.unlink()
    mended = genxfer(folder, "dataset", "target", "--json")
    assert json.loads(mended.stdout)["dataset_target"]["state"] == "ran"
    assert changed.exists()
