"""No credential is in the repository: every tracked file is looked through for what keys and passwords look like."""

import re
import subprocess
from pathlib import Path

import pytest

from tests.conftest import REPOSITORY

# Split, so that this file does not find itself.
KNOWN = {
    "an AWS access key": r"\b(?:AKIA|ASIA)[0-9A-Z]{16}\b",
    "a private key": r"-----BEGIN (?:[A-Z]+ )*PRIVATE" + r" KEY-----",
    "a token of GitHub": r"\bgh[pousr]_[A-Za-z0-9]{36}",
    "a token of GitLab": r"\bglpat-[A-Za-z0-9_-]{20}",
    "a token of Slack": r"\bxox[abprs]-[A-Za-z0-9-]{10}",
    "a webhook of Slack": r"hooks\.slack\.com/services/T[A-Z0-9]{8}",
    "a token of Hugging Face": r"\bhf_[A-Za-z0-9]{34}",
    "a token of PyPI": r"\bpypi-[A-Za-z0-9_-]{50}",
    "a token of npm": r"\bnpm_[A-Za-z0-9]{36}",
    "a key of Google": r"\bAIza[0-9A-Za-z_-]{35}",
    "a key of Prefect": r"\bpn[ub]_[A-Za-z0-9]{36}",
    "a JSON web token": r"\beyJ[A-Za-z0-9_-]{10,}\.eyJ[A-Za-z0-9_-]{10,}\.",
}
NAMED = re.compile(
    r"""(?ix)
    (?<![\w.{$-]) [\w.-]* (?: password | passwd | secret | api_?key | access_?key | auth_string | token ) [\w-]*
    ["']? [ ]* [:=] [ ]* (?P<value> "[^"\n]*" | '[^'\n]*' | (?![{[])[^\s#,]+ )
    """
)
IN_ADDRESSES = re.compile(r"\w+://[^\s/@:\"']*:(?P<value>[^\s/@\"'{}$]+)@[\w.\[]")
PLACEHOLDER = re.compile(
    r"\$\{.*|\{\{.*|<.*>|\.\.\.|\*+|password|secret|s3cret|PREFECT_API_AUTH_STRING|genxfer|true|false|\w+_password|"
    r"sec(?:(?:%40|\?)ret)?|"  # passwords of tests that an address cannot hold as they are
)
CONFIGURATION = {".yaml", ".yml", ".toml", ".env", ".example", ".ini", ".cfg", ".json", ".sh", ".sql", ""}


def tracked() -> list[Path]:
    names = subprocess.run(["git", "ls-files", "-z"], cwd=REPOSITORY, capture_output=True, text=True, check=True).stdout
    return [REPOSITORY / name for name in names.split("\0") if name and (REPOSITORY / name).is_file()]


def found_in(text: str, suffix: str) -> list[str]:
    """Return what looks like a credential in a file of this kind: everywhere, and by its name where settings stand."""
    found = [what for what, pattern in KNOWN.items() if re.search(pattern, text)]
    values = [match["value"] for match in IN_ADDRESSES.finditer(text)]
    if suffix in CONFIGURATION:
        values += [match["value"].strip("\"'") for match in NAMED.finditer(text)]
    return found + [value for value in values if not PLACEHOLDER.fullmatch(value)]


def test_no_tracked_file_holds_a_credential() -> None:
    files = tracked()
    assert len(files) > 300
    told = {}
    for path in files:
        try:
            text = path.read_text(encoding="utf-8")
        except UnicodeDecodeError:
            continue  # a picture
        if path != Path(__file__).resolve() and (found := found_in(text, path.suffix)):
            told[str(path.relative_to(REPOSITORY))] = found
    assert told == {}


def test_files_for_secrets_are_not_tracked_and_cannot_be_by_accident() -> None:
    private = ("infra/.env", "infra/kubernetes/base/secrets.env", ".env")
    assert not {str(path.relative_to(REPOSITORY)) for path in tracked()} & set(private)
    ignored = subprocess.run(["git", "check-ignore", *private], cwd=REPOSITORY, capture_output=True, text=True)
    assert ignored.stdout.split() == list(private)


@pytest.mark.parametrize(
    ("text", "suffix"),
    [
        ("key = AKIA" + "ABCDEFGHIJKLMNOP", ".py"),
        ("-----BEGIN RSA PRIVATE" + " KEY-----", ".pem"),
        ("POSTGRES_PASSWORD: hunter2", ".yaml"),
        ('"secret_access_key": "hunter2"', ".json"),
        ("MLFLOW_TRACKING_PASSWORD=hunter2", ".example"),
        ("url = postgresql://mlflow:hunter2@db/mlflow", ".md"),
        ("GENXFER_TOKEN='hunter2'", ".sh"),
    ],
)
def test_a_credential_would_be_found(text: str, suffix: str) -> None:
    assert found_in(text, suffix)


@pytest.mark.parametrize(
    ("text", "suffix"),
    [
        ("POSTGRES_PASSWORD: ${POSTGRES_PASSWORD:?set it}", ".yaml"),
        ("POSTGRES_PASSWORD=\n# the next\n", ".example"),
        ("postgresql:///mlflow", ".yaml"),
        ("tokens, passwords and secrets", ".md"),
    ],
)
def test_what_is_none_is_not_found(text: str, suffix: str) -> None:
    assert not found_in(text, suffix)
