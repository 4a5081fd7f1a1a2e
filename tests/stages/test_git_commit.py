"""Which commit a registered version says that it was made at."""

from pathlib import Path

import pytest

from genxfer.stages.registration import _git_commit


def test_an_image_knows_what_it_was_built_from(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("GENXFER_GIT_COMMIT", "a" * 40)
    assert _git_commit() == "a" * 40
    monkeypatch.setenv("GENXFER_GIT_COMMIT", "")  # built without saying
    assert _git_commit() is None
