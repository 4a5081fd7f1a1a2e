"""`genxfer gc`: who refers to what, and that it refuses rather than guess."""

import contextlib
import json
import os
import platform
import re
import subprocess
from pathlib import Path
from typing import Any

import pytest
import torch

from genxfer.artifacts.fingerprint import build_document, fingerprint
from genxfer.artifacts.store import LocalStore, Record
from genxfer.errors import DataError
from genxfer.metrics.cache import find_features, keep_features
from genxfer.metrics.features import Pixels
from genxfer.registry.connection import connect
from genxfer.stages import garbage, referrers
from genxfer.stages.garbage import collect_garbage
from genxfer.stages.registration import _registries
from tests.artifacts.stores import publish, write_files
from tests.artifacts.test_garbage import age, kept_records
from tests.conftest import GenxferRun


def document_of(stage: str, seed: int = 1) -> dict[str, Any]:
    return build_document(stage=stage, params={"seed": seed}, inputs={}, code={}, libraries={})


def result(store: LocalStore, folder: Path, stage: str, seed: int = 1) -> Record:
    out_dir = write_files(folder / f"{stage}-{seed}", {"out": f"{stage} {seed}".encode()})
    return publish(store, out_dir, document_of(stage, seed))


@pytest.fixture
def store(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> LocalStore:
    """The store of a working folder, which is the present one."""
    monkeypatch.chdir(tmp_path)
    for variable in ("GENXFER_STORE", "MLFLOW_TRACKING_URI", "MLFLOW_REGISTRY_URI"):
        monkeypatch.delenv(variable, raising=False)
    return LocalStore(tmp_path / ".genxfer" / "store")


def write_lock(lock: Path, outputs: dict[str, str]) -> None:
    stages = {stage: {"outs": [{"path": f"artifacts/{stage}", "md5": md5}]} for stage, md5 in outputs.items()}
    lock.write_text(json.dumps({"schema": "2.0", "stages": stages}))  # YAML reads JSON


def into_dvc_cache(cache: Path, md5: str, document: dict[str, Any]) -> None:
    """Lay the list of a folder and its fingerprint.json where DVC keeps them."""
    listed = [{"md5": "ab" * 16, "relpath": "fingerprint.json"}]
    write_files(cache / "files" / "md5" / md5[:2], {md5[2:]: json.dumps(listed).encode()})
    write_files(cache / "files" / "md5" / "ab", {"ab" * 15: json.dumps(document).encode()})


@pytest.mark.parametrize("cache", [".dvc/cache", "shared", "100%"])
def test_dvc_lock_refers_to_the_results_whose_folders_it_names(store: LocalStore, tmp_path: Path, cache: str) -> None:
    first, second = (result(store, tmp_path, "pretrain", seed) for seed in (1, 2))
    write_lock(Path("dvc.lock"), {"pretrain": f"{'c0' * 16}.dir"})
    into_dvc_cache(Path(cache), f"{'c0' * 16}.dir", document_of("pretrain"))
    Path(".dvc").mkdir(exist_ok=True)
    Path(".dvc/config").write_text("['remote \"s3\"']\n    url = s3://bucket\n")
    if cache != ".dvc/cache":
        Path(".dvc/config.local").write_text(f"[cache]\n    dir = ../{cache}\n")
    assert referrers.in_dvc_locks(store) == {("pretrain", first.fingerprint): "dvc.lock refers to it"}

    write_lock(Path("dvc.lock"), {"pretrain": f"{'d0' * 16}.dir"})
    unknown = referrers.in_dvc_locks(store)
    assert set(unknown) == {("pretrain", first.fingerprint), ("pretrain", second.fingerprint)}
    assert "not in DVC's cache: it may be this one" in unknown["pretrain", first.fingerprint]


@pytest.mark.parametrize("text", ["['remote \"s3\"']\n    sekret\n", "sekret\n", "[core]\n[core]\n"])
@pytest.mark.parametrize("file", [".dvc/config", ".dvc/config.local"])
def test_where_dvcs_cache_cannot_be_found_as_its_settings_are_broken_the_file_is_named(
    store: LocalStore, tmp_path: Path, file: str, text: str
) -> None:
    result(store, tmp_path, "pretrain")
    write_lock(Path("dvc.lock"), {"pretrain": f"{'c0' * 16}.dir"})
    write_files(Path(), {file: text.encode()})
    with pytest.raises(DataError, match=rf"^{re.escape(file)} cannot be read \(\w+\), .* nothing was removed") as told:
        referrers.in_dvc_locks(store)
    assert "sekret" not in str(told.value)


def git(*arguments: str) -> None:
    identity = ("-c", "user.name=n", "-c", "user.email=e", "-c", "commit.gpgsign=false")
    subprocess.run(["git", *identity, *arguments], check=True, capture_output=True)


def commit_lock(text: str) -> None:
    git("init", "--quiet", "--initial-branch=main")
    Path("dvc.lock").write_text(text)
    git("add", "dvc.lock")
    git("commit", "--quiet", "-m", "all")
    Path("dvc.lock").unlink()


@pytest.mark.parametrize("text", ["<<<<<<< HEAD\na: 1\n=======\na: 2\n>>>>>>> x\n", "stages: {pretrain: null}", "- 1"])
def test_a_dvc_lock_that_cannot_be_read_is_mended_here_and_elsewhere_keeps_all(
    store: LocalStore, tmp_path: Path, caplog: pytest.LogCaptureFixture, text: str
) -> None:
    record = result(store, tmp_path, "pretrain")
    commit_lock(text)
    found = referrers.in_dvc_locks(store)
    assert found == {("pretrain", record.fingerprint): "dvc.lock of main cannot be read: it may refer to this"}
    assert "dvc.lock of main cannot be read: every result stays" in caplog.text
    Path("dvc.lock").write_text(text)
    with pytest.raises(DataError, match=r"dvc\.lock cannot be read .* resolve its conflicts first"):
        referrers.in_dvc_locks(store)


def test_where_git_cannot_tell_it_is_not_taken_for_nothing(
    store: LocalStore, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("GIT_CEILING_DIRECTORIES", str(tmp_path.parent))
    assert referrers.in_dvc_locks(store) == {}  # no repository
    with monkeypatch.context() as patch:
        patch.setenv("PATH", "")
        assert referrers.in_dvc_locks(store) == {}
    commit_lock("stages: {}")
    git("rm", "--cached", "--quiet", "dvc.lock")
    git("commit", "--quiet", "-m", "none")
    git("tag", "none")
    git("tag", "blob", "main~1:dvc.lock")
    assert referrers.in_dvc_locks(store) == {}  # no such file
    with monkeypatch.context() as patch:
        patch.setenv("PATH", "")
        with pytest.raises(DataError, match="there is no program `git`"):
            referrers.in_dvc_locks(store)
    Path(".git/config").write_text("[torn")
    with pytest.raises(DataError, match=r"`git for-each-ref .* Make it work in .*config"):
        referrers.in_dvc_locks(store)


def test_what_another_branch_or_a_tag_locks_is_referred_to(store: LocalStore, tmp_path: Path) -> None:
    git("init", "--quiet", "--initial-branch=main")
    for number, name in enumerate(("release", "experiment")):
        md5 = f"{number}{'c' * 31}.dir"
        write_lock(Path("dvc.lock"), {"pretrain": md5})
        Path(".dvc/cache/files/md5").mkdir(parents=True, exist_ok=True)
        document = document_of("pretrain", number)
        listed = [{"md5": f"{number}{'a' * 31}", "relpath": "fingerprint.json"}]
        folder = Path(".dvc/cache/files/md5") / md5[:2]
        write_files(folder, {md5[2:]: json.dumps(listed).encode()})
        write_files(folder.with_name(f"{number}a"), {"a" * 30: json.dumps(document).encode()})
        git("add", "dvc.lock")
        git("commit", "--quiet", "-m", name)
        git("tag" if name == "release" else "branch", name)
    Path("dvc.lock").unlink()
    assert set(referrers.in_dvc_locks(store)) == {("pretrain", fingerprint(document_of("pretrain", n))) for n in (0, 1)}


def test_what_is_laid_out_is_referred_to(store: LocalStore) -> None:
    write_files(Path("artifacts/finetune"), {"fingerprint.json": json.dumps(document_of("finetune")).encode()})
    write_files(Path("artifacts/compare"), {"comparison.json": b"{}"})
    assert referrers.laid_out() == {
        ("finetune", fingerprint(document_of("finetune"))): "laid out in artifacts/finetune"
    }


def registered(store: LocalStore, folder: Path, seed: int, former: Record | None = None) -> Record:
    """The record of a version that was made in the registry in use, in place of `former`; old, and made from images."""
    data = result(store, folder, "dataset_target", seed)
    document = build_document(
        stage="register", params={"seed": seed}, inputs={data.stage: data.fingerprint}, code={}, libraries={}
    )
    out_dir = write_files(folder / f"register-{seed}", {"model.json": b"{}"})
    facts = {"registries": _registries(former)}
    store.publish(
        "register",
        fingerprint(document),
        out_dir,
        document=document,
        seconds=1.0,
        facts=facts,
        versions={},
        replaces=former,
    )
    age(store, 40)
    record = store.find("register", fingerprint(document))
    assert record is not None
    return record


def test_of_two_registries_of_one_store_neither_loses_what_the_other_has(
    store: LocalStore, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The command line's and the worker's: each knows versions of its own, so neither looks like the wrong one."""
    monkeypatch.setattr(referrers, "planned", lambda params: {})
    register_version(one := registered(store, tmp_path, 1))
    here = Path("mlflow.db")
    monkeypatch.setenv("MLFLOW_TRACKING_URI", f"sqlite:///{tmp_path / 'stack.db'}")
    register_version(other := registered(store, tmp_path, 2))

    def gc(apply: bool = False) -> dict[str, str]:
        return {entry.name[:21]: entry.why for entry in collect_garbage(None, 30.0, apply).staying}  # type: ignore[arg-type]

    where = f"registered in sqlite:///{here.resolve()} on {platform.node()}, which was not asked"
    name = f"register {one.fingerprint[:12]}"
    assert gc()[name] == where
    assert gc(apply=True)[f"register {other.fingerprint[:12]}"] == "models:/genxfer/1"
    assert len(kept_records(store)) == 4  # with the images that each was made from
    delete_version("1")
    monkeypatch.delenv("MLFLOW_TRACKING_URI")
    assert f"register {other.fingerprint[:12]}" in gc(apply=True)
    monkeypatch.setenv("MLFLOW_TRACKING_URI", f"sqlite:///{tmp_path / 'stack.db'}")
    assert gc(apply=True)[name] == where
    assert {stage for stage, _ in kept_records(store)} == {"register", "dataset_target"}
    assert len(kept_records(store)) == 2  # of the version that was deleted where it was registered, nothing stays


def register_version(record: Record) -> None:
    """Let the registry in use have a version of `record`, with the tags of one."""
    client = connect()
    with contextlib.suppress(Exception):
        client.create_registered_model("genxfer")
    client.create_model_version("genxfer", source="file:///nowhere", tags={"genxfer.fingerprint": record.fingerprint})


def delete_version(version: str) -> None:
    connect().delete_model_version("genxfer", version)


def test_a_version_that_was_registered_anew_elsewhere_is_known_to_be_in_both(
    store: LocalStore, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "http://ann:secret@one:5000/")
    one = registered(store, tmp_path, 1)
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "http://two:5000")
    both = registered(store, tmp_path, 1, former=one)
    assert both.facts["registries"] == ["http://one:5000", "http://two:5000"]
    assert registered(store, tmp_path, 1, former=both).facts == both.facts
    key = ("register", both.fingerprint)
    assert referrers.registered_elsewhere(store) == {key: "registered in http://one:5000, which was not asked"}
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "http://bob:s3cret@one:5000")
    assert referrers.registered_elsewhere(store) == {key: "registered in http://two:5000, which was not asked"}


def test_a_registry_whose_file_is_missing_is_not_taken_for_an_empty_one(store: LocalStore, tmp_path: Path) -> None:
    record = registered(store, tmp_path, 1)
    assert set(referrers.registered_elsewhere(store)) == {("register", record.fingerprint)}
    Path("mlflow.db").touch()
    assert referrers.registered_elsewhere(store) == {}


def test_features_stay_with_the_images_that_they_are_of(
    store: LocalStore, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    kept = result(store, tmp_path, "pretrain")
    age(store, 40)
    monkeypatch.setattr(garbage, "referred", lambda *_: {("pretrain", kept.fingerprint): "wanted"})
    extractor = Pixels()
    digests = {"stays": kept.outputs["out"].digest, "goes": "e" * 64, "recent": "f" * 64}
    for name, digest in digests.items():
        before = set(garbage.KEPT.glob("*"))
        keep_features(garbage.KEPT, digest, extractor, torch.zeros(3, 4))
        if name != "recent":
            for path in set(garbage.KEPT.glob("*")) - before:
                os.utime(path, (0, 0))
    (garbage.KEPT / "torn.safetensors").write_bytes(b"\xff" * 20)
    os.utime(garbage.KEPT / "torn.safetensors", (0, 0))

    looked = collect_garbage(None, 30.0)  # type: ignore[arg-type]  its params are only for who refers to what
    assert len(list(garbage.KEPT.glob("*"))) == 4
    done = collect_garbage(None, 30.0, apply=True)  # type: ignore[arg-type]
    assert {entry.name for entry in looked.going} == {entry.name for entry in done.going}
    assert done.freed_bytes == sum(entry.size_bytes for entry in done.going) > 0
    assert not (garbage.KEPT / "torn.safetensors").exists()
    found = {name: find_features(garbage.KEPT, digest, extractor) is not None for name, digest in digests.items()}
    assert found == {"stays": True, "goes": False, "recent": True}
    assert {entry.why for entry in looked.going if entry.kind == "features"} == {
        "of no images that stay, and not made within 30 days"
    }


@pytest.mark.slow
def test_without_the_registry_nothing_is_removed_and_without_apply_neither(
    workspace: Path, tmp_path: Path, genxfer: GenxferRun
) -> None:
    store = LocalStore(workspace / ".genxfer" / "store")
    result(store, tmp_path, "pretrain", 77)
    age(store, 40)
    refused = genxfer(workspace, "gc", "--apply", MLFLOW_TRACKING_URI="http://127.0.0.1:9")
    assert (refused.returncode, refused.stdout) == (6, "")
    assert "does not answer" in refused.stderr
    assert len(kept_records(store)) == 1

    looked = genxfer(workspace, "gc")
    assert looked.returncode == 0, looked.stderr
    assert "nobody refers to it" in looked.stdout
    assert "would be freed: add --apply" in looked.stdout
    assert len(kept_records(store)) == 1
    assert not (workspace / "mlflow.db").exists()

    done = genxfer(workspace, "gc", "--apply", "--json")
    assert done.returncode == 0, done.stderr
    told = json.loads(done.stdout)
    assert [entry["kind"] for entry in told["going"]] == ["record", "object"]
    assert told["applied"]
    assert kept_records(store) == set()
