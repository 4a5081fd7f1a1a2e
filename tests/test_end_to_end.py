"""The whole pipeline on real digits and a tiny net: the flow, DVC, and the one cache behind both."""

import json
import platform
import re
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from genxfer.artifacts.store import LocalStore
from genxfer.stages import STAGES
from tests.conftest import clean_environment

pytestmark = [pytest.mark.slow, pytest.mark.service, pytest.mark.timeout(600)]


class Clone:
    """A user's clone of the project: its own code, its own MLflow store, and a store of artifacts."""

    def __init__(self, folder: Path, store: Path) -> None:
        self.folder = folder
        self.store = LocalStore(store)
        self.environment = clean_environment(folder) | {"PYTHONPATH": str(folder), "GENXFER_STORE": str(store)}

    def command(self, *arguments: str) -> "subprocess.CompletedProcess[str]":
        done = subprocess.run(
            [sys.executable, "-m", *arguments], cwd=self.folder, env=self.environment, capture_output=True, text=True
        )
        assert done.returncode == 0, done.stdout + done.stderr
        return done

    def run(self, *overrides: str) -> dict[str, Any]:
        """Run the flow and return its summary; standard output holds that one JSON object and nothing else."""
        options = [word for override in overrides for word in ("-S", override)]
        summary: dict[str, Any] = json.loads(self.command("genxfer", "run", "--json", *options).stdout)
        return summary

    def that_run(self, *overrides: str) -> list[str]:
        """Run the flow and return which stages had to work."""
        return [name for name, stage in self.run(*overrides)["stages"].items() if stage["state"] == "ran"]

    def planned(self) -> list[str]:
        """Return which stages `genxfer plan` says would run."""
        lines = self.command("genxfer", "plan").stdout.splitlines()
        return [line.split()[0] for line in lines if re.match(r"\w+ +runs ", line)]

    def edit(self, file: str, old: str, new: str) -> None:
        path = self.folder / file
        text = path.read_text()
        assert old in text
        path.write_text(text.replace(old, new, 1))


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("store")


@pytest.fixture(scope="module")
def clone(make_clone: Callable[..., Path], store: Path) -> Clone:
    return Clone(make_clone(), store)


@pytest.fixture(scope="module")
def first(clone: Clone) -> dict[str, Any]:
    """The summary of the first run, which had to make everything."""
    return clone.run()


def test_the_first_run_makes_everything_and_sums_it_up(clone: Clone, first: dict[str, Any]) -> None:
    assert {name: stage["state"] for name, stage in first["stages"].items()} == dict.fromkeys(STAGES, "ran")
    assert all(len(stage["fingerprint"]) == 64 and stage["seconds"] > 0 for stage in first["stages"].values())
    for name in ("kid", "fid", "kid_scratch", "fid_scratch", "kid_source", "fid_source", "transfer_gain"):
        assert isinstance(first["metrics"][name], float), name
    assert first["model"] == {"name": "genxfer", "version": "1", "uri": "models:/genxfer/1"}
    page = Path(first["report"]).read_text()
    assert "data:image/png;base64," in page
    assert "http" not in re.sub(r"http://www\.w3\.org/\S+", "", page)
    assert len(list((clone.folder / "data" / "target").glob("*.png"))) == 1700
    md5 = re.search(r"md5: (\w+\.dir)", (clone.folder / "data" / "target.dvc").read_text())
    manifest = json.loads((clone.folder / "artifacts" / "dataset_target" / "manifest.json").read_text())
    assert md5 is not None
    assert manifest["dvc_md5"] == md5[1]


def test_the_second_run_finds_every_stage_in_the_store(clone: Clone, first: dict[str, Any]) -> None:
    second = clone.run()
    assert {stage["state"] for stage in second["stages"].values()} == {"cached"}
    assert (second["metrics"], second["model"]) == (first["metrics"], first["model"])


def test_mlflow_has_one_parent_run_with_a_child_for_each_training_stage(clone: Clone, first: dict[str, Any]) -> None:
    import mlflow

    client = mlflow.MlflowClient(f"sqlite:///{clone.folder / 'mlflow.db'}")
    [experiment] = client.search_experiments(filter_string="name = 'genxfer'")
    runs = client.search_runs([experiment.experiment_id], order_by=["attributes.start_time"])
    by_name = {run.info.run_name: run for run in runs}
    parents = [run for run in runs if "mlflow.parentRunId" not in run.data.tags]
    assert parents[0].info.run_name == "transfer"
    for name in ("pretrain", "finetune", "baseline", "evaluate", "register"):
        assert by_name[name].data.tags["mlflow.parentRunId"] == parents[0].info.run_id
    assert {run.info.status for run in runs} == {"FINISHED"}
    assert "images_per_s" in by_name["pretrain"].data.metrics
    assert by_name["evaluate"].data.metrics["kid"] == pytest.approx(first["metrics"]["kid"])
    [version] = client.search_model_versions("name = 'genxfer'")
    manifest = json.loads((clone.folder / "artifacts" / "dataset_target" / "manifest.json").read_text())
    assert manifest["dvc_md5"] in version.tags.values()
    assert client.get_model_version_by_alias("genxfer", "challenger").version == version.version


def test_a_changed_freeze_runs_finetune_evaluate_and_register_alone(clone: Clone, first: dict[str, Any]) -> None:
    assert clone.that_run("finetune.freeze={discriminator: 2}") == ["finetune", "evaluate", "register"]


def test_without_a_baseline_nothing_is_said_of_it(clone: Clone, first: dict[str, Any]) -> None:
    summary = clone.run("baseline.enabled=false")
    assert "baseline" not in summary["stages"]
    assert "kid_scratch" not in summary["metrics"]
    assert summary["metrics"]["kid"] == first["metrics"]["kid"]


def test_a_comment_and_another_family_run_nothing_and_a_helper_runs_its_stage(
    clone: Clone, first: dict[str, Any]
) -> None:
    clone.edit("genxfer/training/loop.py", "# Average.", "# The average.")
    clone.edit("genxfer/models/vae.py", '"""', '"""Also: ')
    (clone.folder / "genxfer/models/flow.py").write_text("nothing = 0\n")
    assert clone.planned() == []
    clone.edit(
        "genxfer/training/ema.py", "def ema_decay(", "def ema_decay_unused() -> int:\n    return 1\n\n\ndef ema_decay("
    )
    assert clone.planned() == []
    original = (clone.folder / "genxfer/models/dcgan.py").read_text()
    clone.edit("genxfer/models/dcgan.py", "SLOPE = 0.2", "SLOPE = 0.25")
    assert clone.planned() == ["pretrain", "finetune", "baseline", "evaluate", "register"]
    explained = clone.command("genxfer", "explain", "pretrain").stdout
    assert "source file genxfer.models.dcgan:SLOPE" in explained
    (clone.folder / "genxfer/models/dcgan.py").write_text(original)


def test_a_lost_object_runs_the_stage_that_lost_it_alone(clone: Clone, first: dict[str, Any]) -> None:
    record = clone.store.find("baseline", first["stages"]["baseline"]["fingerprint"])
    assert record is not None
    clone.store.read(record.outputs["curves.csv"]).unlink()
    assert clone.that_run() == ["baseline"]


def test_dvc_finds_what_the_flow_made_and_is_then_up_to_date(clone: Clone, first: dict[str, Any]) -> None:
    states = re.findall(r"(\w+): (ran|cached) in", clone.command("dvc", "repro").stderr)
    assert dict(states) == dict.fromkeys(STAGES, "cached")
    assert "up to date" in clone.command("dvc", "repro").stdout
    metrics = json.loads(clone.command("dvc", "metrics", "show", "--json").stdout)
    assert metrics[""]["data"]["artifacts/evaluate/metrics.json"]["data"]["kid"] == first["metrics"]["kid"]
    assert "index.html" in clone.command("dvc", "plots", "show").stdout


def test_a_fresh_clone_with_the_same_store_makes_nothing_twice(
    clone: Clone, first: dict[str, Any], make_clone: Callable[..., Path], store: Path
) -> None:
    """Only what is no artifact is made anew: the laid-out target images, and the version in this clone's registry."""
    fresh = Clone(make_clone(), store)
    states = dict(re.findall(r"(\w+): (ran|cached) in", fresh.command("dvc", "repro").stderr))
    assert [name for name, state in states.items() if state == "ran"] == ["dataset_target", "register"]
    assert fresh.that_run() == []
    assert fresh.run()["metrics"] == first["metrics"]


def test_a_registered_model_serves_another_target_without_the_source(clone: Clone, first: dict[str, Any]) -> None:
    """Its alias is pinned for the whole run, though registering moves it; the version found again is all cached."""
    own = ("finetune.seed=5", "baseline.enabled=false")
    summary = clone.run("finetune.init_from=models:/genxfer/1", *own)
    states = {name: stage["state"] for name, stage in summary["stages"].items()}
    ran = ("finetune", "evaluate", "register")
    assert states == {"dataset_target": "cached", **dict.fromkeys(ran, "ran")}
    assert "kid_source" in summary["metrics"]
    report = json.loads((clone.folder / "artifacts" / "finetune" / "load_report.json").read_text())
    assert report["share"] == 1
    assert report["source_check"]["passed"]
    page = Path(summary["report"]).read_text()
    assert "a source model from elsewhere" in page
    assert "taken over from the source model" in page
    assert clone.that_run("finetune.init_from=models:/genxfer/1", *own) == []
    same_weights = json.loads((clone.folder / "artifacts/finetune/fingerprint.json").read_text())["inputs"]
    record = clone.store.find("finetune", first["stages"]["finetune"]["fingerprint"])
    assert record is not None
    assert same_weights["pretrain/snapshot.safetensors"] == record.outputs["snapshot.safetensors"].digest


def test_a_copy_of_the_pretrained_model_gives_what_the_stage_gives(clone: Clone, first: dict[str, Any]) -> None:
    clone.command("genxfer", "pretrain")
    shutil.copytree(clone.folder / "artifacts" / "pretrain", clone.folder / "mine")
    summary = clone.run("finetune.init_from=mine")
    assert summary["stages"]["finetune"]["state"] == "cached"
    assert summary["stages"]["finetune"]["fingerprint"] == first["stages"]["finetune"]["fingerprint"]
    assert summary["metrics"] == first["metrics"]


def test_the_registered_model_is_sampled_from_the_shell(clone: Clone, first: dict[str, Any]) -> None:
    from PIL import Image

    done = clone.command("genxfer", "sample", "models:/genxfer@challenger", "-n", "9", "-o", "grid.png", "--seed", "7")
    assert done.stdout == "grid.png\n"
    assert Image.open(clone.folder / "grid.png").size[0] > 3 * 16


def test_gc_removes_what_a_deleted_version_alone_was_made_from(
    clone: Clone, first: dict[str, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """dvc.lock still refers to the first run, by DVC's own digests; the store has what other versions are made from."""
    import mlflow

    other = clone.run("finetune.seed=9", "baseline.enabled=false")
    clone.command("dvc", "repro")  # which lays the first run out again
    client = mlflow.MlflowClient(f"sqlite:///{clone.folder / 'mlflow.db'}")
    version = client.get_model_version("genxfer", other["model"]["version"])
    for fact in ("## Limits of use", "![samples](get-artifact?path=samples.png", "finetune: 0.12 kimg"):
        assert fact in version.description
    card = mlflow.artifacts.download_artifacts(
        run_id=version.run_id, artifact_path="model_card.md", tracking_uri=client.tracking_uri
    )
    assert re.search(r"made by: flow run [\w-]+ \([\w-]{36}\)", Path(card).read_text())

    def gc(*options: str) -> list[str]:
        """Return which results go; the runs of just now do not count as recent."""
        told = json.loads(clone.command("genxfer", "gc", "--keep-days", "0", "--json", *options).stdout)
        return sorted(entry["name"] for entry in told["going"] if entry["kind"] == "record")

    assert gc() == []
    # A second registry of the same store, such as that of the stack's worker, knows the first run's version alone.
    with monkeypatch.context() as patch:
        second = f"sqlite:///{tmp_path / 'second.db'}"
        patch.setitem(clone.environment, "MLFLOW_TRACKING_URI", second)
        assert clone.that_run() == ["register"]
        assert gc() == []
    record = clone.store.find("register", first["stages"]["register"]["fingerprint"])
    assert record is not None
    assert record.facts["registries"][-1] == f"{second} on {platform.node()}"
    client.delete_model_version("genxfer", version.version)
    own = ("finetune", "evaluate", "register")
    gone = sorted(f"{name} {other['stages'][name]['fingerprint'][:12]}" for name in own)
    assert gc() == gone
    assert gc("--apply") == gone
    assert gc() == []
    assert clone.store.find("finetune", other["stages"]["finetune"]["fingerprint"]) is None
    assert clone.that_run() == []

    script = "from genxfer.artifacts.store import open_store\nfrom genxfer.stages.referrers import in_dvc_locks\n"
    script += "print(sorted(fingerprint for _, fingerprint in in_dvc_locks(open_store())))"
    done = subprocess.run(
        [sys.executable, "-c", script], cwd=clone.folder, env=clone.environment, capture_output=True, text=True
    )
    assert done.stdout.strip() == str(sorted(stage["fingerprint"] for stage in first["stages"].values())), done.stderr
