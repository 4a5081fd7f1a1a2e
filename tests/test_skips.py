"""What hides no test: where CI promises that a test can run, its skip is a failure."""

import pytest

from tests.conftest import REPOSITORY, not_possible_here


def test_a_skip_for_want_of_root_is_a_failure_in_ci_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("CI_RUN", raising=False)
    with pytest.raises(pytest.skip.Exception, match="mounts need root"):
        not_possible_here("mounts need root")
    monkeypatch.setenv("CI_RUN", "1")
    with pytest.raises(pytest.fail.Exception, match="mounts need root"):
        not_possible_here("mounts need root")
    assert "export CI_RUN=1" in (REPOSITORY / ".ci" / "run").read_text()
