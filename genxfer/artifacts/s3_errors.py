"""What an S3 server or boto3 complains of, in words for the user: which store, what happened, what to do.

The words name the endpoint, the bucket and what is allowed; never a key, a signature or a server's raw answer, which
may carry them. Knows nothing of what was being done: `explaining` is told.
"""

import contextlib
from collections.abc import Callable, Iterator

from botocore import exceptions
from botocore.exceptions import BotoCoreError, ClientError
from s3transfer.exceptions import RetriesExceededError

from genxfer.errors import StoreError

REFUSED = (
    "InvalidAccessKeyId",
    "SignatureDoesNotMatch",
    "InvalidToken",
    "ExpiredToken",
    "ExpiredTokenException",
    "TokenRefreshRequired",
    "AuthFailure",
    "InvalidClientTokenId",
)
DENIED = ("AccessDenied", "AllAccessDisabled", "AccountProblem", "Forbidden", "403")
MISSING_BUCKET = ("NoSuchBucket",)
WRONG_REGION = ("PermanentRedirect", "AuthorizationHeaderMalformed", "IllegalLocationConstraintException", "301")
CLOCK = ("RequestTimeTooSkewed",)
UNSUPPORTED = ("NotImplemented", "MethodNotAllowed", "501", "405")
FULL = ("InsufficientStorage", "QuotaExceeded", "XMinioStorageFull", "507")
BUSY = ("SlowDown", "Throttling", "ThrottlingException", "RequestLimitExceeded", "TooManyRequests", "503", "429")
MANGLED = ("BadDigest", "InvalidDigest", "XAmzContentSHA256Mismatch", "XAmzContentChecksumMismatch")
NO_ANSWER = (
    exceptions.HTTPClientError,
    exceptions.ConnectionError,
    exceptions.IncompleteReadError,
    exceptions.ResponseStreamingError,
    OSError,
)
NO_KEYS = (exceptions.NoCredentialsError, exceptions.PartialCredentialsError)

PERMISSIONS = "s3:GetObject, s3:PutObject and s3:DeleteObject on its objects, and s3:ListBucket"
SET_KEYS = "Set AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY, or AWS_PROFILE"
KEPT = "Unfinished work is kept, so the same command goes on from there"


class LostUploadError(Exception):
    """The server knows nothing of an upload in parts that was begun."""


@contextlib.contextmanager
def explaining(failure: str, place: Callable[[], str], bucket: str) -> Iterator[None]:
    """Turn what boto3 raises into a StoreError; `place` names store and endpoint, and is asked only then."""
    try:
        yield
    except LostUploadError as error:
        raise StoreError(
            f"{failure}. {place()} forgets uploads in several parts before they are done. {KEPT}."
        ) from error
    except RetriesExceededError as error:
        raise StoreError(f"{failure}. {_of_error(error.last_exception, place(), bucket)}") from error
    except (BotoCoreError, ClientError) as error:
        raise StoreError(f"{failure}. {_of_error(error, place(), bucket)}") from error


def code(error: ClientError) -> str:
    """Return S3's word for what went wrong, such as NoSuchKey; an answer without a body has its status alone."""
    return str(error.response.get("Error", {}).get("Code", "")) or str(status(error))


def status(error: ClientError) -> int:
    """Return the status of the server's answer, such as 404."""
    return int(error.response.get("ResponseMetadata", {}).get("HTTPStatusCode", 0))


def _of_error(error: BaseException, place: str, bucket: str) -> str:
    if isinstance(error, ClientError):
        return _of_answer(error, place, bucket)
    name = type(error).__name__
    if isinstance(error, NO_ANSWER):
        return (
            f"{place} does not answer ({name}), though it was asked several times. Check AWS_ENDPOINT_URL and the "
            f"network. {KEPT}."
        )
    if isinstance(error, NO_KEYS):
        return f"{place} asks for credentials, and there are none. {SET_KEYS}."
    if isinstance(error, exceptions.ProfileNotFound):
        return f"AWS_PROFILE names a profile that the AWS configuration does not have. {SET_KEYS} to one that it has."
    return f"The AWS configuration for {place} cannot be used ({name}). {SET_KEYS}, and check AWS_ENDPOINT_URL."


def _of_answer(error: ClientError, place: str, bucket: str) -> str:
    word, number = code(error), status(error)
    if word in REFUSED:
        return f"{place} refuses the credentials ({word}). {SET_KEYS}, to some that it knows and that have not expired."
    if word in MISSING_BUCKET:
        return (
            f"{place} has no bucket {bucket!r} ({word}). Create it, for instance with `aws s3 mb s3://{bucket}`, or "
            "set GENXFER_STORE to s3://BUCKET/PREFIX with a bucket that exists."
        )
    if word in DENIED or number == 403:
        return f"{place} denies access ({word}). The credentials need {PERMISSIONS} on the bucket {bucket!r}."
    if word in WRONG_REGION:
        return f"The bucket {bucket!r} lies in another region ({word}). Set AWS_DEFAULT_REGION to the bucket's."
    if word in CLOCK:
        return f"{place} refuses this machine's clock ({word}): set it right."
    if word in FULL or number == 507:
        return f"{place} has no room left ({word}): free some there, for instance with `genxfer gc`. {KEPT}."
    if word in UNSUPPORTED or number == 501:
        return (
            f"{place} does not support conditional puts, checksums or multipart uploads ({word}), which the store "
            "needs: use a server that does, such as AWS S3 or SeaweedFS, or a folder."
        )
    if word in BUSY or number == 429:
        return f"{place} asks for fewer requests ({word}), also after several pauses: let fewer runs use it. {KEPT}."
    if number >= 500:
        return f"{place} fails ({word}), also after several pauses: see to the server, its disk may be full. {KEPT}."
    if word in MANGLED:
        return f"{place} got something else than was sent ({word}): the network or this machine's disk alters data."
    return f"{place} answers {word} (status {number}), which the store does not expect: look into the server's log."
