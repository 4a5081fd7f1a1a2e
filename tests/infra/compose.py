"""infra/compose.yaml as `docker compose` reads it, with secrets of the tests' own."""

import re
import secrets
from collections.abc import Mapping
from typing import Any

import yaml

from tests.conftest import REPOSITORY

COMPOSE = REPOSITORY / "infra" / "compose.yaml"
EXAMPLE = REPOSITORY / "infra" / ".env.example"

NO_SECRETS = ("GENXFER_WEBHOOK_URL", "GIT_COMMIT")  # may be empty

_VARIABLE = re.compile(r"\$\{(\w+)(?::([-?])([^}]*))?\}")


def example() -> dict[str, str]:
    """Return the variables of .env.example."""
    lines = [line for line in EXAMPLE.read_text().splitlines() if line and not line.startswith("#")]
    return dict(line.split("=", 1) for line in lines)


def filled_in() -> dict[str, str]:
    """Return .env.example as a careful operator fills it in; with characters that have a meaning in addresses."""
    found = {name: value or f"p@/:%#{secrets.token_hex(16)}" for name, value in example().items()}
    found["PREFECT_AUTH"] = f"team:{found['PREFECT_AUTH']}"
    found["S3_ACCESS_KEY"] = secrets.token_hex(16)  # a name rather than a password
    found |= dict.fromkeys(NO_SECRETS, "")
    return found


def interpolated(value: Any, variables: Mapping[str, str]) -> Any:
    """Return `value` with ${NAME}, ${NAME:-default} and ${NAME:?message} replaced; raises KeyError with the message."""
    if isinstance(value, dict):
        return {key: interpolated(item, variables) for key, item in value.items()}
    if isinstance(value, list):
        return [interpolated(item, variables) for item in value]

    def replaced(match: re.Match[str]) -> str:
        name, kind, rest = match.groups()
        if variables.get(name) or (kind is None and name in variables):
            return variables[name]
        if kind == "-":
            return str(rest)
        raise KeyError(f"{name}: {rest}")

    return _VARIABLE.sub(replaced, value) if isinstance(value, str) else value


def compose(variables: Mapping[str, str]) -> dict[str, Any]:
    """Return the file, aliases and variables replaced."""
    found: dict[str, Any] = interpolated(yaml.safe_load(COMPOSE.read_text()), variables)
    return found
