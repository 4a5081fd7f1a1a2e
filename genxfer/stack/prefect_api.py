"""Prefect's API as the stack asks it: at an address, with the user and password where the server wants them."""

import os
from collections.abc import Callable
from typing import Any

from genxfer.stack.health import ask

Api = Callable[..., Any]  # path, body, method: what `ask` answers


def api_at(url: str, credentials: str | None = None) -> Api:
    """Return a function that asks the API at `url`; raises OSError like `ask`."""

    def asked(path: str, body: Any = None, method: str | None = None) -> Any:
        return ask(f"{url}{path}", body, method, credentials)

    return asked


def api_of_environment() -> Api:
    """Return the API that PREFECT_API_URL and PREFECT_API_AUTH_STRING lead every client of Prefect to."""
    return api_at(os.environ["PREFECT_API_URL"], os.environ.get("PREFECT_API_AUTH_STRING"))
