"""Who refers to results in the store from outside of it: versions, runs, dvc.lock, params.yaml, what is laid out.

For `garbage.py`. A result is a stage and a fingerprint; the answer is why it is still wanted. What cannot be looked up
is taken as wanted.
"""

import configparser
import json
import logging
import os
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import yaml

from genxfer.artifacts.fingerprint import fingerprint
from genxfer.artifacts.record import DOCUMENT
from genxfer.artifacts.store import Store
from genxfer.config import Params
from genxfer.errors import DataError
from genxfer.registry.config import is_there, registry_name, registry_uri
from genxfer.stages.doors import EXPORTS, current_plan
from genxfer.stages.registration import REGISTRIES
from genxfer.stages.table import STAGES

Result = tuple[str, str]

LOCK = "dvc.lock"
# What git says where there is nothing to be asked: not in a repository, no such file on that branch.
NOTHING_THERE = ("not a git repository (or any", "does not exist in '", "exists on disk, but not in '")

logger = logging.getLogger("genxfer.stages")


def referred(params: Params, store: Store, keep_s: float) -> dict[Result, str]:
    """Return the results that somebody refers to, and who; raises RegistryError where the registry cannot be asked.

    Raises as well what looking at the plan of `params` raises: DataError, ParameterError, TrainingError.
    """
    from genxfer.registry.lineage import recent_results, registered_results

    versions = registered_results()
    found = dict(recent_results(keep_s))
    found |= registered_elsewhere(store)
    found |= laid_out() | in_dvc_locks(store) | planned(params)
    return found | versions


def planned(params: Params) -> dict[Result, str]:
    """Return the results that params.yaml asks for now, made or not."""
    plan = current_plan(params)
    standings = {name: plan.standing(name) for name in plan.enabled()}
    return {(name, fp): "params.yaml asks for it" for name, one in standings.items() if (fp := one.fingerprint)}


def laid_out() -> dict[Result, str]:
    """Return the results whose files lie in this working folder."""
    found = {}
    for path in EXPORTS.glob(f"*/{DOCUMENT}"):
        if document := _document(path):
            found[(path.parent.name, fingerprint(document))] = f"laid out in {path.parent}"
    return found


def in_dvc_locks(store: Store) -> dict[Result, str]:
    """Return the results that dvc.lock refers to, here and on every branch and tag of Git.

    dvc.lock knows folders by DVC's own digests; which result a folder was stands in its fingerprint.json, in DVC's
    cache. Of a folder that is not in there, every result of the stage counts as referred to; of a dvc.lock on a branch
    or tag that cannot be read, every result. Raises DataError where that of this folder cannot, or Git does not answer.
    """
    found: dict[Result, str] = {}
    for place, text in _locks():
        try:
            outputs = list(_outputs(text))
        except (yaml.YAMLError, AttributeError, TypeError, KeyError) as error:
            if place == LOCK:
                raise DataError(
                    f"{LOCK} cannot be read ({type(error).__name__}): resolve its conflicts first."
                ) from error
            logger.warning("%s cannot be read: every result stays, as it may refer to any", place)
            why = f"{place} cannot be read: it may refer to this"
            found |= {(record.stage, record.fingerprint): why for record in store.all_records()}
            continue
        for stage, md5 in outputs:
            if document := _in_dvc_cache(md5):
                found.setdefault((stage, fingerprint(document)), f"{place} refers to it")
                continue
            why = f"{place} refers to a result of {stage} that is not in DVC's cache: it may be this one"
            found |= {(stage, record.fingerprint): why for record in store.records(stage)}
    return found


def _locks() -> Iterator[tuple[str, str]]:
    """Yield the text of every different dvc.lock, and where it is."""
    seen = set()
    if Path(LOCK).is_file():
        seen.add(text := Path(LOCK).read_text(errors="surrogateescape"))
        yield LOCK, text
    for reference in _git("for-each-ref", "--format=%(refname:short)", "refs/heads", "refs/tags").split():
        if (text := _git("show", f"{reference}:./{LOCK}")) and text not in seen:
            seen.add(text)
            yield f"{LOCK} of {reference}", text


def _git(*arguments: str) -> str:
    """Return what git answers, nothing where there is no repository, or no such file on that branch.

    Raises DataError where it cannot tell: what branches and tags refer to must not be taken for unused.
    """
    environment = os.environ | {"LC_ALL": "C"}  # its words are looked at
    try:
        answer = subprocess.run(
            ["git", *arguments], capture_output=True, text=True, errors="surrogateescape", timeout=60, env=environment
        )
    except FileNotFoundError as error:
        if not any((folder / ".git").exists() for folder in (Path.cwd(), *Path.cwd().parents)):
            return ""
        raise DataError(_unanswered(arguments, "there is no program `git`")) from error
    except (OSError, subprocess.TimeoutExpired) as error:
        raise DataError(_unanswered(arguments, type(error).__name__)) from error
    if answer.returncode == 0 or any(words in answer.stderr for words in NOTHING_THERE):
        return answer.stdout
    raise DataError(_unanswered(arguments, answer.stderr.strip()))


def _unanswered(arguments: tuple[str, ...], why: str) -> str:
    return (
        f"`git {' '.join(arguments)}` failed, so nobody can say which results branches and tags refer to: nothing was "
        f"removed. Make it work in {Path.cwd()} first. It said: {why}"
    )


def _outputs(text: str) -> Iterator[tuple[str, str]]:
    """Yield stage and DVC digest of each folder of a stage's results in a dvc.lock."""
    for entry in ((yaml.safe_load(text) or {}).get("stages") or {}).values():
        for output in entry.get("outs") or ():
            folder = Path(output["path"])
            if folder.parent == EXPORTS and folder.name in STAGES and "md5" in output:
                yield folder.name, output["md5"]


def _in_dvc_cache(md5: str) -> dict[str, Any] | None:
    """Return the document in the folder of that digest, from DVC's cache of this folder; None when it is not there."""
    try:
        files = {entry["relpath"]: entry["md5"] for entry in json.loads(_cached(md5).read_text())}
        return _document(_cached(files[DOCUMENT]))
    except (OSError, ValueError, KeyError, TypeError):
        return None


def _cached(md5: str) -> Path:
    config = configparser.ConfigParser(interpolation=None)  # a path may hold a %
    for file in (".dvc/config", ".dvc/config.local"):
        try:
            config.read(file)
        except configparser.Error as error:  # whose own words may be those of a password
            raise DataError(
                f"{file} cannot be read ({type(error).__name__}), so nobody can say where DVC's cache is, nor which "
                f"results {LOCK} refers to: nothing was removed. Correct the file first: `dvc config --list` says in "
                "which line."
            ) from None
    folder = Path(".dvc", config.get("cache", "dir", fallback="cache"))
    return folder / "files" / "md5" / md5[:2] / md5[2:]


def _document(path: Path) -> dict[str, Any] | None:
    try:
        document = json.loads(path.read_text())
    except (OSError, ValueError):
        return None
    return document if isinstance(document, dict) else None


def registered_elsewhere(store: Store) -> dict[Result, str]:
    """Return what was registered from this store in other registries, or in one that is missing: nobody asked these."""
    asked = {registry_name()} if is_there(registry_uri()) else set()
    found: dict[Result, str] = {}
    for record in store.records("register"):
        if others := [name for name in record.facts.get(REGISTRIES, ()) if name not in asked]:
            found[record.stage, record.fingerprint] = f"registered in {', '.join(others)}, which was not asked"
    return found
