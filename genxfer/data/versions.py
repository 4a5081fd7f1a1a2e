"""The raw target folder under DVC: the only module that imports dvc, and only when there is something to add.

The md5 that DVC knows a folder by goes on the artifact, into the MLflow run and onto the registered version, so that
`dvc get` or a checkout of the .dvc file brings the very images back. Knows nothing of what is in the folder.
"""

import hashlib
import json
import logging
import os
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

from genxfer.errors import DataError

if TYPE_CHECKING:
    from dvc.repo import Repo
    from pathspec import PathSpec

logger = logging.getLogger("genxfer.data")


def add(folder: Path) -> str:
    """Version `folder` as `dvc add` and, where a default remote is set, `dvc push` do; return its md5 ("....dir").

    Outside a DVC repository, and within `dvc repro` (which holds DVC's locks), nothing is added and the md5 is the one
    that `dvc add` would give. Raises DataError when DVC refuses or the remote cannot be reached: the stage is not
    recorded then, so that the next run tries again.
    """
    root = _repository(folder)
    if root is None or os.environ.get("DVC_STAGE"):
        return folder_md5(folder)
    from dvc.exceptions import DvcException
    from dvc.lock import LockError
    from dvc.logger import set_loggers_level
    from dvc.output import OutputAlreadyTrackedError
    from dvc.repo import Repo

    try:
        # DVC's advice goes to stdout, which belongs to the results.
        with set_loggers_level(logging.WARNING), Repo(str(root)) as repo:
            [stage] = repo.add(str(folder.resolve()))
            md5 = str(stage.outs[0].hash_info.value)
            logger.info("%s is version %s in DVC; commit %s to Git to keep it", folder, md5, stage.relpath)
            _push(repo, stage.path)
            return md5
    except LockError:
        logger.warning("another DVC process is at work: %s is not added to DVC this time", folder)
    except OutputAlreadyTrackedError:
        logger.warning("%s is tracked by Git: it is not added to DVC", folder)
    except DvcException as error:
        raise DataError(f"DVC could not version {folder}: {error} Run `dvc add {folder}` to see more.") from error
    return folder_md5(folder)


def folder_md5(folder: Path) -> str:
    """Return the md5 that `dvc add` gives `folder` ("....dir"), without DVC and in no need of a repository.

    Raises DataError where a file cannot be read, such as a link whose file is gone.
    """
    files = []
    for path in _visible_files(folder):
        try:
            with path.open("rb") as file:
                md5 = hashlib.file_digest(file, lambda: hashlib.md5(usedforsecurity=False)).hexdigest()
        except OSError as error:
            raise DataError(
                f"{path} cannot be read, so {folder} gets no version: {error.strerror}. Remove it or make it readable, "
                "then run again."
            ) from error
        files.append({"md5": md5, "relpath": path.relative_to(folder).as_posix()})
    listing = json.dumps(sorted(files, key=lambda file: file["relpath"]), sort_keys=True)
    return hashlib.md5(listing.encode(), usedforsecurity=False).hexdigest() + ".dir"


def _push(repo: "Repo", dvc_file: str) -> None:
    """Push what `dvc_file` tracks to the default remote, where one is set; raises DataError."""
    remote = repo.config["core"].get("remote")
    if not remote:
        return
    try:
        repo.push(targets=[dvc_file])
    except Exception as error:  # each kind of remote fails with errors of its own
        raise DataError(
            f"DVC could not push {dvc_file} to its default remote {remote!r}: {error} Make the remote reachable, or "
            f"work without one: dvc config --unset core.remote."
        ) from error


def _repository(folder: Path) -> Path | None:
    """Return the root of the DVC repository that `folder` is in, or None."""
    return next((parent for parent in folder.resolve().parents if (parent / ".dvc").is_dir()), None)


def _visible_files(folder: Path) -> Iterator[Path]:
    """Yield the files below `folder` that DVC sees: not its own or Git's, and none that a .dvcignore hides."""
    rules = _ignore_rules(folder)
    for parent, folders, files in os.walk(folder):
        folders[:] = [name for name in folders if name not in (".dvc", ".git", ".hg")]
        for path in (Path(parent, name) for name in files):
            if not any(spec.match_file(path.resolve().relative_to(base)) for base, spec in rules):
                yield path


def _ignore_rules(folder: Path) -> "list[tuple[Path, PathSpec]]":
    """Return the rules of each .dvcignore file in `folder` and above it in its repository, with its place."""
    root = _repository(folder)
    above = [folder.resolve(), *folder.resolve().parents]
    files = [place / ".dvcignore" for place in above if root is not None and place.is_relative_to(root)]
    rules = []
    for file in (file for file in files if file.is_file()):
        lines = file.read_text().splitlines()
        if any(line.strip() and not line.startswith("#") for line in lines):
            from pathspec import PathSpec  # comes with dvc

            rules.append((file.parent, PathSpec.from_lines("gitwildmatch", lines)))
    return rules
