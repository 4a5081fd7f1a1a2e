"""A stage's outputs to publish, and looks into the folder of a store."""

from pathlib import Path

from genxfer.artifacts.fingerprint import build_document, fingerprint
from genxfer.artifacts.store import LocalStore, ObjectRef, Record

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


def publish(store: LocalStore, out_dir: Path, document=DOCUMENT, seconds: float = 2.5, **options) -> Record:
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


def object_path(store: LocalStore, ref: ObjectRef) -> Path:
    return store.root / "objects" / ref.digest[:2] / ref.digest[2:]


def damage(path: Path, data: bytes) -> None:
    path.chmod(0o644)
    path.write_bytes(data)


def contents(root: Path) -> dict[str, bytes]:
    """Every file of a store but its locks."""
    files = (path for path in root.rglob("*") if path.is_file())
    return {
        path.relative_to(root).as_posix(): path.read_bytes()
        for path in files
        if "locks" not in path.relative_to(root).parts
    }
