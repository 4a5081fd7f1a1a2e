"""`genxfer gc`: what lies in the store and in the feature cache that nobody refers to, and its removal when told.

`referrers.py` says who refers to what, `artifacts/garbage.py` what follows for the store. Features are kept for the
real images that a staying result has, and for as long as they are recent: those of a model's samples no longer, be the
model there or not.
"""

import json
import time
from collections.abc import Iterable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from genxfer.artifacts.garbage import Census, Entry, census, remove
from genxfer.artifacts.store import open_store
from genxfer.config import Params
from genxfer.stages.features import KEPT
from genxfer.stages.referrers import referred

DAY_S = 86400.0


@dataclass(frozen=True)
class Collection:
    """What went, or would go, and what stays and why."""

    applied: bool
    store: str
    going: tuple[Entry, ...]
    staying: tuple[Entry, ...]

    @property
    def freed_bytes(self) -> int:
        """How much room that makes."""
        return sum(entry.size_bytes for entry in self.going)

    def to_json(self) -> dict[str, Any]:
        """Return it all as plain data."""
        sides = {side: [asdict(entry) for entry in getattr(self, side)] for side in ("going", "staying")}
        return {"applied": self.applied, "store": self.store, "freed_bytes": self.freed_bytes} | sides


def collect_garbage(params: Params, keep_days: float, apply: bool = False) -> Collection:
    """Say what nobody refers to and is older than `keep_days`, and with `apply` remove it.

    Raises RegistryError when the registry cannot be asked, StoreError when the store cannot be read or written, and
    what looking at the plan of `params` raises: nothing is removed then.
    """
    store, keep_s = open_store(), keep_days * DAY_S
    wanted = referred(params, store, keep_s)
    found = remove(store, wanted, keep_s) if apply else census(store, wanted, keep_s)
    digests = {entry.name for entry in found.staying if entry.kind == "object"}
    features = list(_features(digests, keep_s))
    for path, _, goes in features:
        if goes and apply:
            path.unlink(missing_ok=True)
    return Collection(apply, store.location, *_sides(found, [(entry, goes) for _, entry, goes in features]))


def _sides(found: Census, features: Iterable[tuple[Entry, bool]]) -> tuple[tuple[Entry, ...], tuple[Entry, ...]]:
    features = list(features)
    return (
        (*found.going, *(entry for entry, goes in features if goes)),
        (*found.staying, *(entry for entry, goes in features if not goes)),
    )


def _features(digests: set[str], keep_s: float) -> Iterable[tuple[Path, Entry, bool]]:
    """Yield each file of kept features, and whether it goes."""
    for path in sorted(KEPT.glob("*.safetensors")):
        try:
            status, images = path.stat(), _images(path)
        except FileNotFoundError:
            continue
        recent = time.time() - status.st_mtime < keep_s
        old = f"of no images that stay, and not made within {keep_s / DAY_S:g} days"
        why = "of images that stay" if images in digests else "recent" if recent else old
        goes = images not in digests and not recent
        yield path, Entry("features", path.name, status.st_size, why), goes


def _images(path: Path) -> str | None:
    """Return the digest of the images that the features in `path` are of; None where it does not say."""
    try:
        with path.open("rb") as file:
            header = json.loads(file.read(int.from_bytes(file.read(8), "little")))
        return str(json.loads(header["__metadata__"]["key"])["images"])
    except FileNotFoundError:
        raise
    except (OSError, ValueError, KeyError, TypeError, OverflowError, MemoryError):
        return None
