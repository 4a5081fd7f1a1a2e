"""Which commit the code is at that registers a model. Knows nothing of models."""

import os
import subprocess


def git_commit() -> tuple[str | None, bool | None]:
    """Return the commit of the working folder, and whether tracked files differ from it; (None, None) outside Git.

    Of an image it is the commit that it says it was built from; what differed then nobody knows: None.
    """
    if built_from := os.environ.get("GENXFER_GIT_COMMIT"):
        return built_from, None
    commit = _git("rev-parse", "--verify", "HEAD")  # without --verify, it answers HEAD where there is no commit
    changes = _git("--no-optional-locks", "status", "--porcelain", "--untracked-files=no") if commit else None
    return commit or None, None if changes is None else bool(changes)


def _git(*arguments: str) -> str | None:
    """Return what git answers, None where it fails or is not there."""
    try:
        answer = subprocess.run(["git", *arguments], capture_output=True, text=True, errors="replace", timeout=60)
    except (OSError, subprocess.TimeoutExpired):
        return None
    return answer.stdout.strip() if answer.returncode == 0 else None
