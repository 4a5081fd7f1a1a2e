"""The objects of a store on S3: whether they are there and whole, to the server, and from it into the local cache.

Stands between the store and its bucket; knows nothing of records and stages.
"""

import contextlib
import re
from collections.abc import Callable, Iterable
from pathlib import Path

from genxfer.artifacts.record import ObjectRef, StoredObject
from genxfer.artifacts.s3_cache import DamagedError, ObjectCache
from genxfer.artifacts.s3_client import Bucket, Listed
from genxfer.artifacts.s3_errors import LostUploadError
from genxfer.errors import StoreError

FOLDER = "objects"
FETCH_ATTEMPTS = 2  # before a whole object of the right size is called damaged: it may be the way that is
UPLOAD_ATTEMPTS = 3

_KEY = re.compile(rf"{FOLDER}/([0-9a-f]{{2}})/([0-9a-f]{{62}})")


def key_of(ref: ObjectRef) -> str:
    """Return where the object lies in the bucket."""
    return f"{FOLDER}/{ref.digest[:2]}/{ref.digest[2:]}"


class ObjectsOnS3:
    """The objects of a bucket, read through a cache. Raises boto3's errors and OSError."""

    def __init__(self, bucket: Bucket, cache: ObjectCache) -> None:
        self._bucket = bucket
        self._cache = cache

    def flaws(self, refs: Iterable[ObjectRef]) -> dict[ObjectRef, str]:
        """Return of each object that is not there in its size what is wrong with it."""
        wanted = list(dict.fromkeys(refs))
        flaws = self._bucket.in_parallel(lambda ref: _flaw(ref, self._bucket.head(key_of(ref))), wanted)
        return {ref: flaw for ref, flaw in zip(wanted, flaws, strict=True) if flaw is not None}

    def upload(self, refs: Iterable[ObjectRef]) -> None:
        """Bring those objects of the cache to the server that are not there, or were not put there as themselves."""
        wanted = list(dict.fromkeys(refs))
        self._bucket.end_lonely_uploads(FOLDER)
        for attempt in range(UPLOAD_ATTEMPTS):
            there = self._bucket.in_parallel(lambda ref: self._bucket.head(key_of(ref)), wanted)
            wanted = [ref for ref, found in zip(wanted, there, strict=True) if _needs_upload(ref, found)]
            try:
                self._bucket.upload((self._cache.path(ref), key_of(ref), ref.digest) for ref in wanted)
                return
            except LostUploadError:  # the server forgot it, or has finished it and the answer was lost: look again
                if attempt == UPLOAD_ATTEMPTS - 1:
                    raise

    def fetch(self, ref: ObjectRef, advice: Callable[[], str]) -> Path:
        """Return the path of a verified object in the cache; a damaged one is moved aside and raises StoreError."""
        place = self._bucket.location
        for _ in range(FETCH_ATTEMPTS):
            found = self._bucket.head(key_of(ref))
            if found is None:
                raise StoreError(f"Object {ref.digest} is gone from the store {place}. {advice()}")
            if found.size_bytes == ref.size_bytes:
                with contextlib.suppress(DamagedError):
                    return self._cache.fill(ref, lambda write: self._bucket.download(key_of(ref), write))
        assert found is not None
        moved = f" It was moved aside to {key_of(ref)}.damaged." if self._bucket.set_aside(found) else ""
        raise StoreError(
            f"Object {ref.digest} in the store {place} is damaged: its content no longer has the digest that names "
            f"it.{moved} {advice()}"
        )

    def listed(self) -> list[StoredObject]:
        """Return every object there is."""
        matches = [(_KEY.fullmatch(entry.key), entry) for entry in self._bucket.listed(FOLDER)]
        return [
            StoredObject(ObjectRef(match[1] + match[2], entry.size_bytes), entry.age_s)
            for match, entry in matches
            if match is not None
        ]

    def remove(self, ref: ObjectRef, youngest_s: float) -> bool:
        """Remove an object from the server, unless it has come again within `youngest_s`; return whether it is gone."""
        found = self._bucket.head(key_of(ref))
        if found is not None and found.age_s < youngest_s:
            return False
        if found is not None:
            self._bucket.delete(key_of(ref), found.etag)
        return True


def _flaw(ref: ObjectRef, found: Listed | None) -> str | None:
    if found is None:
        return "is gone from the store"
    if found.size_bytes != ref.size_bytes:
        return f"has {found.size_bytes} bytes instead of {ref.size_bytes}"
    return None


def _needs_upload(ref: ObjectRef, found: Listed | None) -> bool:
    """Whether what lies there was not uploaded as this very content: of another's bytes the size may be right."""
    return found is None or (found.size_bytes, found.digest) != (ref.size_bytes, ref.digest)
