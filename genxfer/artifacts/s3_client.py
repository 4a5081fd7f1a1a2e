"""One bucket under a prefix: get, conditional put, list, parallel and ranged transfers, with retries.

Stands between the store on S3 and boto3, which is imported here, in `s3_connection.py` and in `s3_errors.py` alone.
Knows nothing of records, objects or leases. What fails raises boto3's errors, but for what callers ask about: nothing
there, and a condition that does not hold.
"""

import base64
import logging
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from datetime import datetime
from email.utils import parsedate_to_datetime
from functools import cached_property
from pathlib import Path
from typing import Any, TypeVar
from urllib.parse import urlsplit

from boto3.s3.transfer import TransferConfig, create_transfer_manager
from botocore.exceptions import ClientError

from genxfer.artifacts.s3_connection import connect, split_location
from genxfer.artifacts.s3_errors import NO_ANSWER, LostUploadError, code, status

STREAM_ATTEMPTS = 3
THREADS = 10
PART_BYTES = 16 << 20  # of transfers; what is larger goes in parallel parts
LONELY_UPLOAD_S = 24 * 3600.0  # parts of an upload that nobody has finished in this time belong to a dead one
DIGEST_KEY = "sha256"  # the metadata that tells of what content an object was uploaded

_FAILED_CONDITION = (404, 409, 412)  # gone; changed by another this very moment; there, or not as expected

Item = TypeVar("Item")
Answer = TypeVar("Answer")

logger = logging.getLogger("genxfer.artifacts")


@dataclass(frozen=True)
class Content:
    """A small object, whole."""

    data: bytes
    etag: str
    age_s: float  # since it was written, by the server's clock alone


@dataclass(frozen=True)
class Listed:
    """What is known of an object without reading it."""

    key: str
    size_bytes: int
    etag: str
    age_s: float
    digest: str | None = None  # of the content that its uploader meant; only `head` knows


class Bucket:
    """The objects of one bucket under a prefix; keys are relative to it. Connects when it is first asked."""

    def __init__(self, location: str) -> None:
        self.name, self.prefix = split_location(location)
        self.location = f"s3://{self.name}/{self.prefix}".rstrip("/")

    def place(self) -> str:
        """Return the store and its endpoint, as errors name them."""
        endpoint = self.endpoint()
        return f"The store {self.location}" + (f" at {endpoint}" if endpoint else "")

    def endpoint(self) -> str | None:
        """Return the address of the server, without credentials; None where there is none."""
        try:
            url = urlsplit(self._client.meta.endpoint_url)
        except Exception:  # the error that asks says why
            return None
        return f"{url.scheme}://{url.netloc.rpartition('@')[2]}"

    def get(self, key: str) -> Content | None:
        """Return a small object, None where there is none."""
        for attempt in range(STREAM_ATTEMPTS):
            try:
                answer = self._client.get_object(Bucket=self.name, Key=self._full(key))
                return Content(answer["Body"].read(), answer["ETag"], _age_s(answer["LastModified"], answer))
            except NO_ANSWER:  # boto3 asks again on its own unless the answer had begun
                if attempt == STREAM_ATTEMPTS - 1:
                    raise
            except ClientError as error:
                if code(error) != "NoSuchKey":
                    raise
                return None
        raise AssertionError

    def head(self, key: str) -> Listed | None:
        """Return what is known of an object, None where there is none (or no bucket: `get` tells them apart)."""
        try:
            answer = self._client.head_object(Bucket=self.name, Key=self._full(key))
        except ClientError as error:
            if status(error) != 404:
                raise
            return None
        age_s = _age_s(answer["LastModified"], answer)
        return Listed(key, answer["ContentLength"], answer["ETag"], age_s, answer["Metadata"].get(DIGEST_KEY))

    def put(self, key: str, data: bytes, *, replaces: str | None, brief: bool = False) -> str | None:
        """Write a small object over the one with the ETag `replaces`, or where there is none; return its ETag.

        None when the condition does not hold: somebody else was faster. After a lost answer that may have been we.
        """
        client = self._brief_client if brief else self._client
        condition = {"IfNoneMatch": "*"} if replaces is None else {"IfMatch": replaces}
        try:
            answer = client.put_object(Bucket=self.name, Key=self._full(key), Body=data, **condition)
        except ClientError as error:
            if status(error) not in _FAILED_CONDITION or code(error) == "NoSuchBucket":
                raise
            return None
        return str(answer["ETag"])

    def delete(self, key: str, etag: str | None = None, brief: bool = False) -> None:
        """Remove an object, if it still has the ETag; what is gone, or another, is left as it is."""
        client = self._brief_client if brief else self._client
        condition = {} if etag is None else {"IfMatch": etag}
        try:
            client.delete_object(Bucket=self.name, Key=self._full(key), **condition)
        except ClientError as error:
            if status(error) not in _FAILED_CONDITION or code(error) == "NoSuchBucket":
                raise

    def set_aside(self, found: Listed) -> bool:
        """Rename the object that `found` tells of to KEY.damaged; False where refused or another by now."""
        source = {"Bucket": self.name, "Key": self._full(found.key)}
        target = self._full(f"{found.key}.damaged")
        try:
            self._client.copy(source, self.name, target, ExtraArgs={"CopySourceIfMatch": found.etag})
            self.delete(found.key, found.etag)
        except ClientError as error:  # such as a store that may only be read
            logger.debug("%s could not be moved aside: %s", found.key, code(error))
            return False
        return True

    def listed(self, folder: str) -> Iterator[Listed]:
        """Yield every object whose key begins with `folder`/."""
        pages = self._client.get_paginator("list_objects_v2").paginate(
            Bucket=self.name, Prefix=self._full(f"{folder}/")
        )
        for page in pages:
            for entry in page.get("Contents", ()):
                key = entry["Key"].removeprefix(self._full(""))
                yield Listed(key, entry["Size"], entry["ETag"], _age_s(entry["LastModified"], page))

    def folders(self, folder: str) -> list[str]:
        """Return the names of the folders in `folder`."""
        prefix = self._full(f"{folder}/")
        paginator = self._client.get_paginator("list_objects_v2")
        return [
            entry["Prefix"].removeprefix(prefix).rstrip("/")
            for page in paginator.paginate(Bucket=self.name, Prefix=prefix, Delimiter="/")
            for entry in page.get("CommonPrefixes", ())
        ]

    def upload(self, files: Iterable[tuple[Path, str, str]]) -> None:
        """Upload (path, key, sha256 of the content) in parallel; the server verifies the checksums of what it got.

        Raises LostUploadError when the server does not know, or no longer knows, of an upload in parts.
        """
        with create_transfer_manager(self._client, _TRANSFERS) as manager:
            transfers = [
                manager.upload(str(path), self.name, self._full(key), _verified(path, digest))
                for path, key, digest in files
            ]
            try:
                for transfer in transfers:
                    transfer.result()
            except ClientError as error:
                if code(error) == "NoSuchUpload":
                    raise LostUploadError from error
                raise

    def download(self, key: str, write: Callable[[bytes], None]) -> None:
        """Hand an object's content to `write`, in order, while parallel requests fetch ranges of it."""
        with create_transfer_manager(self._client, _TRANSFERS) as manager:
            manager.download(self.name, self._full(key), _Sink(write)).result()

    def end_lonely_uploads(self, folder: str, older_than_s: float = LONELY_UPLOAD_S) -> int:
        """Remove the parts that dead uploaders left under `folder`, as far as we may; return of how many."""
        ended = 0
        try:
            answer = self._client.list_multipart_uploads(Bucket=self.name, Prefix=self._full(f"{folder}/"))
        except ClientError as error:  # tidying up is nobody's due
            logger.debug("unfinished uploads could not be listed: %s", code(error))
            return ended
        for upload in answer.get("Uploads", ()):
            if _age_s(upload["Initiated"], answer) > older_than_s:
                try:
                    self._client.abort_multipart_upload(
                        Bucket=self.name, Key=upload["Key"], UploadId=upload["UploadId"]
                    )
                    ended += 1
                except ClientError as error:  # not allowed, or another host has just done it
                    logger.debug("an unfinished upload could not be removed: %s", code(error))
        return ended

    def in_parallel(self, function: Callable[[Item], Answer], items: Iterable[Item]) -> list[Answer]:
        """Return what `function`, a few requests, answers for each of the items."""
        with ThreadPoolExecutor(THREADS, thread_name_prefix="genxfer-s3") as pool:
            return list(pool.map(function, items))

    def _full(self, key: str) -> str:
        return f"{self.prefix}/{key}" if self.prefix else key

    @cached_property
    def _client(self) -> Any:
        return connect()

    @cached_property
    def _brief_client(self) -> Any:
        """A client that gives up soon: a lease must not be renewed long after it was to be."""
        return connect(brief=True)


class _Sink:
    """A file that can only be written: so s3transfer puts the ranges in order, and the digest needs no second look."""

    def __init__(self, write: Callable[[bytes], None]) -> None:
        self.write = write


_TRANSFERS = TransferConfig(multipart_threshold=PART_BYTES, multipart_chunksize=PART_BYTES, max_concurrency=THREADS)


def _verified(path: Path, digest: str) -> dict[str, Any]:
    """Return what makes the server check an upload: the content's own sha256, or that of each part."""
    extra: dict[str, Any] = {"Metadata": {DIGEST_KEY: digest}}
    if path.stat().st_size < PART_BYTES:
        return extra | {"ChecksumSHA256": base64.b64encode(bytes.fromhex(digest)).decode()}
    return extra | {"ChecksumAlgorithm": "SHA256"}


def _age_s(written: datetime, answer: dict[str, Any]) -> float:
    """Return how long before the server's answer something was written, both by the server's clock."""
    now = parsedate_to_datetime(answer["ResponseMetadata"]["HTTPHeaders"]["date"])
    return (now - written).total_seconds()
