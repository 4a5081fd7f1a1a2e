"""The passwords of the full stack: made once at random, kept in files that their owner alone can read.

Programs are told the files' names, never a password on a command line or in a URL, which logs and `ps` show.
"""

import contextlib
import json
import secrets
from dataclasses import dataclass
from pathlib import Path

from genxfer.artifacts.atomic import json_bytes, write_atomic
from genxfer.errors import StoreError
from genxfer.stack.settings import HOST, Settings

OWNER_ALONE = 0o600
DATABASE_USER = "genxfer"
REGION = "us-east-1"  # SeaweedFS has no regions, S3 clients want one


@dataclass(frozen=True)
class Credentials:
    """What the parts of the full stack know each other by."""

    database_password: str
    s3_key_id: str
    s3_secret: str

    @classmethod
    def random(cls) -> "Credentials":
        """Return new ones."""
        return cls(secrets.token_urlsafe(24), f"GX{secrets.token_hex(9).upper()}", secrets.token_urlsafe(30))


@dataclass(frozen=True)
class CredentialFiles:
    """Where each program finds what it needs to know."""

    postgres: Path  # libpq's password file
    aws: Path  # the shared credentials file of every S3 client
    s3: Path  # the identities that SeaweedFS knows

    @classmethod
    def of(cls, settings: Settings) -> "CredentialFiles":
        """Return the files of a stack, whether they exist or not."""
        folder = settings.folder / "credentials"
        return cls(folder / "pgpass", folder / "aws", folder / "s3.json")


def write_credentials(settings: Settings) -> Credentials:
    """Return the credentials of this stack, made now if there are none, and write the files that programs read."""
    credentials = _load_or_make(settings.folder / "credentials" / "credentials.json")
    files = CredentialFiles.of(settings)
    _write(files.postgres, f"{HOST}:*:*:{DATABASE_USER}:{credentials.database_password}\n")
    _write(
        files.aws,
        f"[default]\naws_access_key_id = {credentials.s3_key_id}\naws_secret_access_key = {credentials.s3_secret}\n",
    )
    key = {"accessKey": credentials.s3_key_id, "secretKey": credentials.s3_secret}
    actions = ["Admin", "Read", "Write", "List", "Tagging"]
    identity = {"name": "genxfer", "credentials": [key], "actions": actions}
    _write(files.s3, json.dumps({"identities": [identity]}))
    return credentials


def _load_or_make(path: Path) -> Credentials:
    with contextlib.suppress(FileNotFoundError):
        try:
            return Credentials(**json.loads(path.read_text()))
        except (ValueError, TypeError) as error:
            raise StoreError(
                f"{path} cannot be read ({error}). Restore it, or remove the folder {path.parents[1]} with all data."
            ) from None
    credentials = Credentials.random()
    write_atomic(path, json_bytes(vars(credentials)), OWNER_ALONE)
    return credentials


def _write(path: Path, text: str) -> None:
    if not path.exists() or path.read_text() != text:
        write_atomic(path, text.encode(), OWNER_ALONE)
