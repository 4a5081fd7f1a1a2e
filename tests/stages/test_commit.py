"""Which commit a registered version says that it was made at, and whether the code was really that."""

import subprocess
from pathlib import Path

import pytest

from genxfer.stages.commit import git_commit

IDENTITY = ("-c", "user.name=n", "-c", "user.email=e", "-c", "commit.gpgsign=false")


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The working folder, in no repository."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("GIT_CEILING_DIRECTORIES", str(tmp_path.parent))
    for variable in ("GENXFER_GIT_COMMIT", "GIT_DIR", "GIT_WORK_TREE"):
        monkeypatch.delenv(variable, raising=False)
    return tmp_path


def git(*arguments: str) -> str:
    done = subprocess.run(["git", *IDENTITY, *arguments], check=True, capture_output=True, text=True)
    return done.stdout.strip()


def test_an_image_knows_what_it_was_built_from(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("GENXFER_GIT_COMMIT", "a" * 40)
    assert git_commit() == ("a" * 40, None)
    monkeypatch.setenv("GENXFER_GIT_COMMIT", "")  # built without saying
    assert git_commit() == (None, None)


def test_without_git_a_repository_or_a_commit_there_is_none(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert git_commit() == (None, None)
    git("init", "--quiet")
    Path("code.py").write_text("1")
    git("add", "code.py")
    assert git_commit() == (None, None)
    git("commit", "--quiet", "-m", "one")
    monkeypatch.setenv("PATH", "")
    assert git_commit() == (None, None)


def test_the_commit_is_told_apart_from_what_was_changed_since(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    git("init", "--quiet")
    Path("code.py").write_text("1")
    git("add", "code.py")
    git("commit", "--quiet", "-m", "one")
    commit = git("rev-parse", "HEAD")
    Path("mlflow.db").touch()  # untracked: what a run leaves is no change of the code
    assert git_commit() == (commit, False)
    Path("code.py").write_text("2")
    assert git_commit() == (commit, True)
    (folder / "below").mkdir()
    monkeypatch.chdir(folder / "below")
    assert git_commit() == (commit, True)
    git("add", "..")
    assert git_commit() == (commit, True)
    git("commit", "--quiet", "-m", "two")
    assert git_commit() == (git("rev-parse", "HEAD"), False)
