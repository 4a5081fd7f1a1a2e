"""A client for the S3 server that the environment or the AWS configuration names, and how a store on S3 is written.

Retries with growing pauses are boto3's own standard mode: on lost connections, throttling and failures of the server.
Knows nothing of what is asked of the server.
"""

import logging
import re
from typing import Any

import boto3
from botocore.config import Config
from botocore.exceptions import InvalidRegionError

from genxfer.errors import StoreError

ATTEMPTS = 8  # about 45 s of pauses that grow; AWS_MAX_ATTEMPTS overrides
BRIEF_ATTEMPTS = 2
CONNECT_TIMEOUT_S = 10
READ_TIMEOUT_S = 60
BRIEF_TIMEOUT_S = 5
CONNECTIONS = 20

_LOCATION = re.compile(r"s3://([a-z0-9][a-z0-9.-]{1,61}[a-z0-9])(?:/(.*))?")

logger = logging.getLogger("genxfer.artifacts")


def split_location(location: str) -> tuple[str, str]:
    """Return bucket and prefix of s3://bucket/prefix; raises StoreError, which repeats nothing that may be a key."""
    match = _LOCATION.fullmatch(location)
    prefix = (match[2] or "").strip("/") if match else ""
    if match is None or any(part in ("", ".", "..") for part in prefix.split("/") if prefix):
        shown = "s3://..., with credentials in it," if "@" in location else repr(location)
        raise StoreError(
            f"The store {shown} is no place on S3. Set GENXFER_STORE to s3://BUCKET/PREFIX: a bucket of 3 to 63 small "
            "letters, digits, dots and hyphens, and a prefix without empty parts. Endpoint and credentials come from "
            "the environment or the AWS configuration (AWS_ENDPOINT_URL, AWS_ACCESS_KEY_ID, AWS_PROFILE, ...)."
        )
    return match[1], prefix


def connect(brief: bool = False) -> Any:
    """Return a boto3 client for S3; a brief one gives up soon. Raises StoreError, and boto3's errors."""
    session = boto3.Session()
    attempts = _attempts(session)
    options: dict[str, Any] = {
        "retries": {"mode": "standard", "total_max_attempts": min(attempts, BRIEF_ATTEMPTS) if brief else attempts},
        "connect_timeout": BRIEF_TIMEOUT_S if brief else CONNECT_TIMEOUT_S,
        "read_timeout": BRIEF_TIMEOUT_S if brief else READ_TIMEOUT_S,
        "max_pool_connections": CONNECTIONS,
        "user_agent_extra": "genxfer",
    }
    try:
        client = session.client("s3", config=Config(**options))
        own = "amazonaws.com" not in client.meta.endpoint_url
        if own and not session._session.get_scoped_config().get("s3"):  # few servers of one's own know bucket.HOST
            client = session.client("s3", config=Config(**options, s3={"addressing_style": "path"}))
    except InvalidRegionError as error:  # which is a ValueError too
        raise StoreError(
            "The region in AWS_DEFAULT_REGION or in the AWS configuration is no name of one. Set it to one such as "
            "eu-west-1."
        ) from error
    except ValueError as error:  # whose words repeat the endpoint, and a password that may be part of it
        raise StoreError(
            "The endpoint in AWS_ENDPOINT_URL or in the AWS configuration is no address. Set it to http://HOST:PORT."
        ) from error
    client.meta.events.register("needs-retry.s3", _say_retry)
    return client


def _attempts(session: Any) -> int:
    """Return how often a request is made at most; raises StoreError where that is set to something else."""
    try:
        asked = session._session.get_config_variable("max_attempts")
        if asked is not None and asked < 1:
            raise ValueError(f"it is {asked}")
    except ValueError as error:
        raise StoreError(
            f"AWS_MAX_ATTEMPTS, or max_attempts in the AWS configuration, is to be a whole number from 1 on: {error}."
        ) from error
    return ATTEMPTS if asked is None else int(asked)


def _say_retry(attempts: int, caught_exception: Exception | None, response: Any, **more: Any) -> None:
    """Say once per request that it is being tried again."""
    failed = caught_exception is not None or (response is not None and response[0].status_code >= 500)
    if failed and attempts == 2:
        why = type(caught_exception).__name__ if caught_exception else f"status {response[0].status_code}"
        logger.warning("the S3 server does not serve us yet (%s): trying again", why)
