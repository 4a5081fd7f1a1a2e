"""What the registry is told, and what it answers: data only, read without importing mlflow or torch.

Also decides which MLflow store is meant. Knows nothing of how that store is spoken to.
"""

import os
import platform
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

from pydantic import Field, field_validator

from genxfer.checked import Checked

DEFAULT_STORE = "mlflow.db"
ARTIFACT_FOLDER = "mlartifacts"  # beside the database; a tracking server decides for itself

MODEL_URI = re.compile(r"models:/(?P<name>[^/@:]+)(@(?P<alias>[^/@:]+)|/(?P<version>\d+))")
CHAMPION = "champion"  # the alias of the version in use, moved by promotion and rollback alone
PREVIOUS = "previous"  # the alias of the champion before
CARD_LENGTH = 3500  # of a version's description, which MLflow ends at 5,000: later decisions are added to it
LINEAGE_TAG = "genxfer.lineage."  # and the name of a stage: the fingerprint of its result
MEASURED_TAG = "genxfer.measured"  # of a version: what metrics.json says, as JSON
ROLLED_BACK_TAG = "genxfer.rolled_back"  # of a version: when, by whom and why it was taken back
DIGEST_TAG = "genxfer.sha256."  # and the name of a file: of which content a version's files are

# What comes after the scheme of such an address; one of which nobody can say what the host is counts as one.
_OF_THIS_MACHINE = re.compile(r"://(/|\.\.\.|$|localhost(:|/|$)|127\.|0\.0\.0\.0\b|\[::1?\])")
_USERINFO = re.compile(r"(?<=://)[^/\s@]+@")


class RegisterConfig(Checked):
    """The section `register` of params.yaml."""

    name: str = Field(
        default="genxfer", pattern=r"^[^/:@'\"`\s]+$", max_length=250, description="The registered model."
    )
    alias: str = Field(
        default="challenger",
        pattern=r"^[A-Za-z0-9_-]+$",
        max_length=250,
        description="Points at the version just made.",
    )

    @field_validator("alias")
    @classmethod
    def _not_reserved(cls, alias: str) -> str:
        if alias.lower() == "latest" or re.fullmatch(r"v\d+", alias.lower()):
            raise ValueError(f"MLflow reserves the alias {alias!r} ('latest', 'v1', 'v2', ...); choose a word")
        return alias


class PromoteConfig(Checked):
    """The section `promote` of params.yaml: when the challenger takes the champion's place (see rule.py)."""

    confidence: float = Field(
        default=0.95,
        ge=0.5,
        le=0.9999,
        description="Of the interval of the difference of both KIDs, which has to lie on the challenger's side.",
    )
    min_improvement: float = Field(
        default=0.0, ge=0, lt=1, description="By this share of the champion's KID the challenger's has to be lower."
    )
    require_memorization: bool = Field(
        default=True, description="Refuse a model of which it was not measured whether it copies training images."
    )
    min_first_gain: float | None = Field(
        default=1.0,
        ge=0,
        description="What the first champion's transfer gain has to exceed, where a baseline was measured; nor may it "
        "be worse than its own source model. null: nothing is asked.",
    )
    images: int = Field(default=4, ge=1, le=64, description="Drawn of each model, to see that it loads and draws.")


@dataclass(frozen=True)
class DatasetRevision:
    """One revision of a packed data set, as it is shown beside a run and a registered version."""

    domain: Literal["source", "target", "test"]
    name: str
    digest: str  # sha256 of the packed images
    location: str  # where the raw images came from, for people
    n_images: int
    dvc_md5: str | None = None

    @property
    def mlflow_digest(self) -> str:
        """The part of the digest that MLflow has room for (36 characters)."""
        return self.digest[:32]


@dataclass(frozen=True)
class ModelPackage:
    """All that a registered version consists of."""

    weights: Path  # snapshot.safetensors and ...
    description: Path  # ... snapshot.json, wherever the store keeps them and under whatever names
    fingerprint: str  # of the register stage: the identity of the version
    source_check: Mapping[str, Path] = field(default_factory=dict)  # by file name: for whoever trains on from here
    metrics: Mapping[str, float] = field(default_factory=dict)
    measured: Mapping[str, Any] = field(default_factory=dict)  # metrics.json: these, and all that they depend on
    params: Mapping[str, Any] = field(default_factory=dict)
    datasets: tuple[DatasetRevision, ...] = ()
    lineage: Mapping[str, str] = field(default_factory=dict)  # stage -> fingerprint
    git_commit: str | None = None
    git_dirty: bool | None = None  # whether tracked files differed from it; None where nobody could look
    card: str = ""  # Markdown: as model_card.md beside the weights ...
    short_card: str = ""  # ... and as the version's description in MLflow
    files: Mapping[str, Path] = field(default_factory=dict)  # shown beside the version: samples.png, report.html


@dataclass(frozen=True)
class RegisteredModel:
    """One version in the registry; `uri` is what `mlflow.pyfunc.load_model` takes."""

    name: str
    version: str
    run_id: str

    @property
    def uri(self) -> str:
        """models:/name/version."""
        return f"models:/{self.name}/{self.version}"


def tracking_uri() -> str:
    """Return MLFLOW_TRACKING_URI, or the SQLite file mlflow.db in the working folder."""
    return os.environ.get("MLFLOW_TRACKING_URI") or f"sqlite:///{Path.cwd() / DEFAULT_STORE}"


def registry_uri() -> str:
    """Return where versions are registered: MLFLOW_REGISTRY_URI where it is set, else beside the runs."""
    return os.environ.get("MLFLOW_REGISTRY_URI") or tracking_uri()


def registry_name() -> str:
    """Return what tells the registry in use from others: its address as shown, resolved where it is a file.

    An address that means another one on each machine, such as a file or localhost, is followed by this machine's name.
    """
    uri = registry_uri()
    database = sqlite_file(uri)
    shown = f"sqlite:///{database.resolve()}" if database else shown_uri(uri).rstrip("/")
    return f"{shown} on {platform.node()}" if _OF_THIS_MACHINE.search(shown) else shown


def shown_uri(uri: str | None = None) -> str:
    """Return `uri`, by default `tracking_uri()`, as it may be printed: without user, password and query.

    A password may hold an @, / or ? that nobody encoded: where it is not clear what the host is, that is left out too.
    """
    uri = tracking_uri() if uri is None else uri
    scheme, separator, rest = uri.partition("://")
    if not separator or scheme.startswith(("sqlite", "file")):
        return uri
    userinfo, _, location = rest.rpartition("@")
    return f"{scheme}://{'...' if '?' in userinfo else location.partition('?')[0]}"


def without_passwords(text: str) -> str:
    """Return a message of MLflow, or of a library below it, without the passwords of the addresses in it."""
    uri = tracking_uri().rstrip("/")
    return _USERINFO.sub("", text.replace(uri, shown_uri(uri)))


def sqlite_file(uri: str) -> Path | None:
    """Return the database file of an SQLite store, None for any other kind of store."""
    path = uri.removeprefix("sqlite:///").partition("?")[0]  # behind it stand options, such as timeout=60
    return Path(path).absolute() if uri.startswith("sqlite:///") and path else None


def is_there(uri: str) -> bool:
    """Whether the MLflow store is no file that is missing: that knows of nothing, and looking must not create it."""
    database = sqlite_file(uri)
    return database is None or database.exists()
