"""Tell people who do not look: a message to the webhook that `GENXFER_WEBHOOK_URL` names, if it names one.

Any layer above may call it. An alert is a courtesy: whatever becomes of it, the work that it speaks of goes on as if it
had been sent. The address holds a secret in most services (in its path, or as user and password), so no word of it but
the host is ever logged. Knows nothing of flows or models.
"""

import base64
import http.client
import json
import logging
import math
import os
import re
import time
import urllib.error
import urllib.parse
import urllib.request
from collections.abc import Mapping
from typing import Any

logger = logging.getLogger("genxfer.alerts")

VARIABLE = "GENXFER_WEBHOOK_URL"
TRIES = 3
TIMEOUT_S = 5.0  # of one try
PAUSE_S = 0.5  # before the second try, twice that before the third

_PASSWORDS = re.compile(r"(?<=//)\S*@")  # up to the last @: a password may hold others, and slashes, too


class _NoRedirects(urllib.request.HTTPRedirectHandler):
    """A redirected POST would arrive as a GET without its body, and perhaps at somebody else's."""

    def redirect_request(self, *_: Any, **__: Any) -> None:
        return None


def send_alert(event: str, text: str, details: Mapping[str, Any] | None = None) -> None:
    """POST {"event", "text", "details"} as JSON to the webhook; nothing happens where none is set.

    `text` alone says everything to a person: it is the field that chat services show. Never raises: what cannot be
    sent, after three tries within seconds, is a warning in the log. Passwords in addresses (`//user:password@`) are
    left out of what is sent.
    """
    address = os.environ.get(VARIABLE, "").strip()
    if not address:
        return
    try:
        request, host = _request(address), _host(address)
    except ValueError:
        logger.warning("No alert %r was sent: %s must be a whole http or https address.", event, VARIABLE)
        return
    request.data = json.dumps(_plain({"event": event, "text": text, "details": details or {}})).encode()
    failure = _post(request)
    if failure:
        logger.warning("The alert %r could not be sent to %s: %s. It says: %s", event, host, failure, _plain(text))


def _request(address: str) -> urllib.request.Request:
    """Return a POST to `address`, its user and password as a header; raises ValueError where it is no web address."""
    parts = urllib.parse.urlsplit(address)
    if (
        parts.scheme not in ("http", "https")
        or not parts.hostname
        or not address.isascii()
        or not address.isprintable()
    ):
        raise ValueError
    userinfo, _, location = parts.netloc.rpartition("@")
    request = urllib.request.Request(parts._replace(netloc=location).geturl(), method="POST")
    request.add_header("Content-Type", "application/json; charset=utf-8")
    request.add_header("User-Agent", "genxfer")
    if userinfo:
        encoded = base64.b64encode(urllib.parse.unquote(userinfo).encode()).decode()
        request.add_unredirected_header("Authorization", f"Basic {encoded}")
    return request


def _host(address: str) -> str:
    """Return what may be shown of `address`; raises ValueError where its port is none."""
    parts = urllib.parse.urlsplit(address)
    return f"{parts.scheme}://{parts.hostname}" + (f":{parts.port}" if parts.port else "")


def _post(request: urllib.request.Request) -> str | None:
    """Send `request`, again where another try may help; return why it did not arrive, None where it did."""
    opener = urllib.request.build_opener(_NoRedirects)
    failure = None
    for number in range(TRIES):
        time.sleep(number * PAUSE_S)
        try:
            with opener.open(request, timeout=TIMEOUT_S):
                return None
        except urllib.error.HTTPError as error:
            error.close()
            failure = f"it answered {error.code}"
            if error.code < 500 and error.code not in (408, 429):  # too slow, too many: may pass
                return failure
        except (OSError, http.client.HTTPException, ValueError) as error:
            # Of what libraries say here, some repeat the whole address: name the kind of error, and the system's words.
            cause = getattr(error, "reason", error)
            failure = f"{type(cause).__name__} {getattr(cause, 'strerror', None) or ''}".rstrip()
    return failure


def _plain(value: Any) -> Any:
    """Return `value` as JSON can hold it, without the passwords of addresses in it."""
    if isinstance(value, Mapping):
        return {str(key): _plain(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(item) for item in value]
    if value is None or isinstance(value, bool | int) or (isinstance(value, float) and math.isfinite(value)):
        return value
    return _PASSWORDS.sub("", str(value))
