"""A stage's outputs to publish, and looks into the inside of a store of each kind."""

from pathlib import Path
from typing import Any, Protocol

from genxfer.artifacts.fingerprint import build_document, fingerprint
from genxfer.artifacts.store import LocalStore, ObjectRef, Record, Store

LEASE_S = 4.0  # short, as the tests let some expire; each renewal has a third of it

DOCUMENT = build_document(
    stage="pretrain", params={"kimg": 1.5, "layers": (1, 2)}, inputs={}, code={"a": "1"}, libraries={}
)
FP = fingerprint(DOCUMENT)
FILES = {"snapshot.safetensors": b"weights" * 1000, "samples/grid.png": b"picture", "same.png": b"picture"}


def write_files(folder: Path, files: dict[str, bytes]) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    for name, data in files.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(data)
    return folder


def publish(store: Store, out_dir: Path, document=DOCUMENT, seconds: float = 2.5, **options) -> Record:
    return store.publish(
        document["stage"],
        fingerprint(document),
        out_dir,
        document=document,
        seconds=seconds,
        facts={"images_per_s": 800.0},
        versions={"torch": "2.14"},
        **options,
    )


class StoreKind(Protocol):
    """A store whose inside can be seen and damaged, by keys such as objects/ab/cdef and records/pretrain/f.json."""

    def open(self) -> Store:
        """Return the store as another process, or another host, sees it."""

    def arguments(self) -> tuple[str, ...]:
        """Return what `opened` needs to open the store in another process."""

    def contents(self) -> dict[str, bytes]:
        """Return all that lies in the store but its locks."""

    def write(self, key: str, data: bytes) -> None: ...

    def remove(self, key: str) -> None: ...

    def shown(self, key: str) -> str:
        """Return how messages name `key`."""


class LocalKind:
    def __init__(self, root: Path) -> None:
        self.root = root

    def open(self) -> LocalStore:
        return LocalStore(self.root)

    def arguments(self) -> tuple[str, ...]:
        return (str(self.root),)

    def contents(self) -> dict[str, bytes]:
        return contents(self.root)

    def write(self, key: str, data: bytes) -> None:
        path = self.root / key
        if path.exists():
            path.chmod(0o644)
        path.write_bytes(data)

    def remove(self, key: str) -> None:
        (self.root / key).unlink()

    def shown(self, key: str) -> str:
        return str(self.root / key)


class S3Kind:
    """Each `open` has folders of its own, as another host has."""

    def __init__(self, location: str, local: Path, client: Any) -> None:
        self.location = location
        self._prefix = location.removeprefix("s3://bucket/") + "/"
        self._local = local
        self._client = client
        self._hosts = 0

    def open(self, cache_bytes: int = 10**9, lease_s: float = LEASE_S) -> Any:
        location, host = self.arguments()
        return opened(location, host, cache_bytes, lease_s)

    def arguments(self) -> tuple[str, str]:
        self._hosts += 1
        return self.location, str(self._local / str(self._hosts))

    def contents(self) -> dict[str, bytes]:
        return {key: self.get(key) for key in self.listed() if not key.startswith("locks/")}

    def listed(self) -> list[str]:
        pages = self._client.get_paginator("list_objects_v2").paginate(Bucket="bucket", Prefix=self._prefix)
        return [entry["Key"].removeprefix(self._prefix) for page in pages for entry in page.get("Contents", ())]

    def get(self, key: str) -> bytes:
        data: bytes = self._client.get_object(Bucket="bucket", Key=self._prefix + key)["Body"].read()
        return data

    def write(self, key: str, data: bytes) -> None:
        self._client.put_object(Bucket="bucket", Key=self._prefix + key, Body=data)

    def remove(self, key: str) -> None:
        self._client.delete_object(Bucket="bucket", Key=self._prefix + key)

    def shown(self, key: str) -> str:
        return f"{self.location}/{key}"


def opened(location: str, host: str = "", cache_bytes: int = 10**9, lease_s: float = LEASE_S) -> Any:
    """Return the store at `location`; one on S3 with its local folders in the folder `host`."""
    if not host:
        return LocalStore(Path(location))
    from genxfer.artifacts.s3 import S3Store
    from genxfer.artifacts.s3_cache import ObjectCache

    return S3Store(location, ObjectCache(Path(host, "cache"), cache_bytes), Path(host, "work"), lease_s)


def object_key(ref: ObjectRef) -> str:
    return f"objects/{ref.digest[:2]}/{ref.digest[2:]}"


def object_path(store: LocalStore, ref: ObjectRef) -> Path:
    return store.root / object_key(ref)


def contents(root: Path) -> dict[str, bytes]:
    """Every file under a folder, but not a store's locks."""
    files = (path for path in root.rglob("*") if path.is_file())
    return {
        path.relative_to(root).as_posix(): path.read_bytes()
        for path in files
        if "locks" not in path.relative_to(root).parts
    }
