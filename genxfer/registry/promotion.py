"""A challenger becomes the champion when the rule says so, and a rollback undoes it: `genxfer promote` and `rollback`.

Gathers what is known of both versions, asks `rule.py`, moves the alias by `champions.py`, and writes the reason on the
versions. MLflow has no transaction: the aliases are read again right before they move, and two promotions in the same
instant may still both move them, each to a version that passed the rule.
"""

import contextlib
import json
import logging
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass, field
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
from numpy.typing import NDArray

from genxfer.errors import ParameterError, RegistryError
from genxfer.registry.champions import afterwards, champion_of, history, move_back, move_forth, now, who, write_down
from genxfer.registry.config import CHAMPION, MEASURED_TAG, PREVIOUS, ROLLED_BACK_TAG, PromoteConfig
from genxfer.registry.connection import connect, explained
from genxfer.registry.loading import Drawn, draw_apart
from genxfer.registry.pull import resolve
from genxfer.registry.rule import Candidate, Check, Decision, decide

if TYPE_CHECKING:
    from mlflow import MlflowClient
    from mlflow.entities.model_registry import ModelVersion

logger = logging.getLogger("genxfer.registry")

PROMOTED_TAG = "genxfer.promoted"

State = Literal["promoted", "not promoted", "already champion", "rolled back"]


@dataclass(frozen=True)
class Outcome:
    """What a promotion or a rollback did, or with `dry_run` would have done."""

    state: State
    name: str
    champion: str | None  # the version that is champion from now on
    former: str | None  # and the one that was before
    reason: str
    dry_run: bool
    challenger: str | None = None
    checks: tuple[Check, ...] = ()
    notes: tuple[str, ...] = ()
    images: Mapping[str, NDArray[np.uint8]] = field(default_factory=dict)  # version -> drawn [N H W C], to look at

    def to_json(self) -> dict[str, Any]:
        """Return everything but the pictures."""
        told = {key: getattr(self, key) for key in ("state", "name", "challenger", "champion", "former", "dry_run")}
        return told | {"reason": self.reason, "checks": [asdict(check) for check in self.checks], "notes": self.notes}


def promote(name: str, alias: str, config: PromoteConfig, dry_run: bool = False) -> Outcome:
    """Make the version that `alias` points at the champion of `name`, if the rule says so; raises RegistryError."""
    if alias in (CHAMPION, PREVIOUS):
        raise ParameterError(
            f"register.alias is {alias!r}, which promotion itself moves: what is registered would be {alias} at once. "
            "Set register.alias to another word, such as challenger."
        )
    challenger = resolve(f"models:/{name}@{alias}")
    client = connect()
    with explained(f"Promoting version {challenger.version} of {name!r}"):
        past = history(client, name)
        former = champion_of(client, name)
        if former == str(challenger.version):
            return _already(name, former, dry_run)
        versions = [challenger, *([client.get_model_version(name, former)] if former else [])]
        drawn = draw_apart(name, [str(version.version) for version in versions], config.images)
        candidates = [_candidate(version, one) for version, one in zip(versions, drawn, strict=True)]
        decision = decide(candidates[0], candidates[1] if former else None, config)
        if decision.promote and not dry_run:
            _check_unmoved(name, {alias: candidates[0].version, CHAMPION: former})
            _write_reason(name, candidates[0].version, former, decision, config)
            move_forth(client, name, candidates[0].version, past)
            if former:
                by = candidates[0].version
                with afterwards(name, f"that version {former} was replaced"):
                    write_down(client, name, former, {"genxfer.replaced_by": by}, f"replaced by version {by}.")
            logger.info("Version %s of %s is champion.", candidates[0].version, name)
    return Outcome(
        "promoted" if decision.promote else "not promoted",
        name,
        candidates[0].version if decision.promote else former,
        former,
        decision.reason,
        dry_run,
        candidates[0].version,
        decision.checks,
        decision.notes,
        {one.version: found.images for one, found in zip(candidates, drawn, strict=True) if found.images is not None},
    )


def rollback(name: str, reason: str, dry_run: bool = False) -> Outcome:
    """Make the champion before the present one the champion again; raises RegistryError where there is none."""
    resolve(f"models:/{name}@{CHAMPION}")  # says what there is instead, when there is none
    client = connect()
    with explained(f"Rolling {name!r} back"):
        past = history(client, name)
        if len(past) < 2:
            raise RegistryError(
                f"Version {past[-1]} of {name!r} is champion, and none was before it that is still there: there is "
                "nothing to roll back to. Promote another version, or move the alias by hand in MLflow."
            )
        left, restored = past[-1], past[-2]
        told = f"by {who()}: {reason}"
        if not dry_run:
            _check_unmoved(name, {CHAMPION: left})
            with _marked(client, name, left, f"{now()} {told}"):
                back = f"champion again, rolled back from version {left} {told}"
                write_down(client, name, restored, {PROMOTED_TAG: now(), f"{PROMOTED_TAG}.why": back}, back)
                move_back(client, name, past)
            with afterwards(name, f"on version {left} that it was rolled back"):
                write_down(client, name, left, {}, f"rolled back to version {restored} {told}")
            logger.info("Version %s of %s is champion again, version %s no longer.", restored, name, left)
    return Outcome("rolled back", name, restored, left, told, dry_run)


def _already(name: str, version: str, dry_run: bool) -> Outcome:
    reason = f"Version {version} is the champion already."
    return Outcome("already champion", name, version, version, reason, dry_run, version)


def _candidate(version: "ModelVersion", drawn: Drawn) -> Candidate:
    tags = dict(version.tags)
    measured = json.loads(tags.get(MEASURED_TAG, "{}"))
    return Candidate(str(version.version), measured, drawn.fault, tags.get(ROLLED_BACK_TAG))


def _check_unmoved(name: str, expected: Mapping[str, str | None]) -> None:
    """Raise RegistryError when somebody has moved an alias since it was read: loading both models takes a while."""
    aliases = connect().get_registered_model(name).aliases
    found = {word: None if (version := aliases.get(word)) is None else str(version) for word in expected}
    if found != expected:
        moved = ", ".join(f"{word} was {version} and is {found[word]}" for word, version in expected.items())
        raise RegistryError(
            f"Somebody else moved an alias of {name!r} meanwhile: {moved}. Nothing was changed; run it again."
        )


@contextlib.contextmanager
def _marked(client: "MlflowClient", name: str, version: str, why: str) -> Iterator[None]:
    """Mark the champion `version` as rolled back while it is being replaced, and take that back where it was not.

    Marked first: one that was left and not marked, as the process was killed, would be promoted again by itself.
    """
    client.set_model_version_tag(name, version, ROLLED_BACK_TAG, why)
    try:
        yield
    except BaseException:
        with contextlib.suppress(Exception):  # what is raised already says it better
            if champion_of(client, name) == version:
                client.delete_model_version_tag(name, version, ROLLED_BACK_TAG)
        raise


def _write_reason(name: str, version: str, former: str | None, decision: Decision, config: PromoteConfig) -> None:
    """Write the reason on the version: before the alias moves, so that no champion is without one."""
    reason = " ".join([decision.reason, *decision.notes])
    tags = {
        PROMOTED_TAG: now(),
        f"{PROMOTED_TAG}.by": who(),
        f"{PROMOTED_TAG}.in_place_of": former or "none",
        f"{PROMOTED_TAG}.why": reason,
        f"{PROMOTED_TAG}.rule": config.model_dump_json(),
    }
    instead = f"in place of version {former}" if former else "as the first"
    write_down(connect(), name, version, tags, f"promoted {instead}. {reason}")
