"""Which versions were champion, in order, and how the alias moves: forth by a promotion, back by a rollback.

The order stands in a tag of the registered model. The alias is what counts: MLflow cannot change both at once, so the
tag is read as far as the alias, and whoever was killed in between, or moved the alias by hand, leaves nothing wrong.
What is written after the alias has moved may fail, with a warning (`afterwards`). Knows nothing of why it moves; that
is written on the versions (`write_down`).
"""

import contextlib
import getpass
import json
import logging
from collections.abc import Iterator, Mapping, Sequence
from datetime import UTC, datetime
from typing import TYPE_CHECKING

from genxfer.errors import RegistryError
from genxfer.registry.config import CHAMPION, PREVIOUS
from genxfer.registry.connection import brief

if TYPE_CHECKING:
    from mlflow import MlflowClient

logger = logging.getLogger("genxfer.registry")

HISTORY_TAG = "genxfer.champions"  # of the registered model: a JSON list of versions, the first champion first
HISTORY_LENGTH = 100  # MLflow keeps 5,000 characters of a registered model's tag
DESCRIPTION_LENGTH = 5000  # of a version, in MLflow's tables
DECISIONS = "\n\n## Decisions\n"


def champion_of(client: "MlflowClient", name: str) -> str | None:
    """Return the version that is champion now, None when there is none."""
    version = client.get_registered_model(name).aliases.get(CHAMPION)
    return None if version is None else str(version)


def history(client: "MlflowClient", name: str) -> list[str]:
    """Return the versions that were champion and are still there, up to the present one, the first one first."""
    model = client.get_registered_model(name)
    champion = model.aliases.get(CHAMPION)
    there = {str(found.version) for found in client.search_model_versions(f"name='{name}'")}
    known = [version for version in _read(model.tags.get(HISTORY_TAG, "[]")) if version in there]
    past = [version for version, before in zip(known, [None, *known], strict=False) if version != before]
    if champion is None:
        return past
    return up_to(past, str(champion))


def up_to(past: Sequence[str], champion: str) -> list[str]:
    """Return `past` as far as its last mention of `champion`; where it has none, somebody else moved the alias."""
    if champion not in past:
        return [*past, champion]
    last = len(past) - 1 - list(reversed(past)).index(champion)
    return list(past[: last + 1])


def move_forth(client: "MlflowClient", name: str, version: str, past: Sequence[str]) -> None:
    """Make `version` the champion after those of `past`, whose last is the present one."""
    _write(client, name, [*past, version])  # first: a history that is too long is cut when it is read, at the alias
    client.set_registered_model_alias(name, CHAMPION, version)
    with afterwards(name, f"the alias {PREVIOUS!r}"):
        _point_back(client, name, past)


def move_back(client: "MlflowClient", name: str, past: Sequence[str]) -> None:
    """Make the last but one of `past` the champion again."""
    client.set_registered_model_alias(name, CHAMPION, past[-2])
    with afterwards(name, f"the tag {HISTORY_TAG}"):
        _write(client, name, past[:-1])
    with afterwards(name, f"the alias {PREVIOUS!r}"):
        _point_back(client, name, past[:-2])


@contextlib.contextmanager
def afterwards(name: str, what: str) -> Iterator[None]:
    """Warn of what fails to be written once the alias has moved: `name` has its new champion, and is to be said so."""
    try:
        yield
    except Exception as error:  # whatever MLflow, its database or its server raises
        logger.warning(
            "The champion of %r has changed, but %s could not be written: %s. Mend it in MLflow.",
            name,
            what,
            brief(error),
        )


def write_down(client: "MlflowClient", name: str, version: str, tags: Mapping[str, str], sentence: str) -> None:
    """Write what was decided about `version` on it: as tags, and as a line at the end of its description."""
    for key, value in tags.items():
        client.set_model_version_tag(name, version, key, value)
    text = client.get_model_version(name, version).description or ""
    client.update_model_version(name, version, description=with_decision(text, f"- {now()}: {sentence}"))


def with_decision(description: str, line: str) -> str:
    """Return the description with one more line of decisions, the oldest of which make room when it is too long."""
    card, _, log = description.partition(DECISIONS)
    lines = [*(past for past in log.splitlines() if past), line[: DESCRIPTION_LENGTH // 2]]
    while len(lines) > 1 and len(card) + len(DECISIONS) + len("\n".join(lines)) > DESCRIPTION_LENGTH:
        del lines[0]
    room = DESCRIPTION_LENGTH - len(DECISIONS) - len("\n".join(lines))
    return card[:room].rstrip() + DECISIONS + "\n".join(lines)


def now() -> str:
    """Return the present moment for people, in UTC."""
    return datetime.now(UTC).strftime("%Y-%m-%d %H:%M:%S UTC")


def who() -> str:
    """Return the user's name, as far as there is one."""
    with contextlib.suppress(KeyError, OSError):
        return getpass.getuser()
    return "unknown"


def _point_back(client: "MlflowClient", name: str, past: Sequence[str]) -> None:
    if past:
        client.set_registered_model_alias(name, PREVIOUS, past[-1])
    elif PREVIOUS in client.get_registered_model(name).aliases:
        client.delete_registered_model_alias(name, PREVIOUS)


def _read(text: str) -> list[str]:
    try:
        past = json.loads(text)
        return [str(version) for version in past]
    except (ValueError, TypeError):
        raise RegistryError(
            f"The tag {HISTORY_TAG} of the registered model is {text!r}, which is no JSON list of versions. "
            "Correct or delete it in MLflow."
        ) from None


def _write(client: "MlflowClient", name: str, past: Sequence[str]) -> None:
    client.set_registered_model_tag(name, HISTORY_TAG, json.dumps(past[-HISTORY_LENGTH:]))
