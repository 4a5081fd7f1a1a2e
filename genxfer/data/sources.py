"""Open the raw images of any kind of source: second step of the stage `dataset`.

Each kind answers with names and, image by image, a Pillow image as it is stored. Archives are read in place: nothing is
extracted, so a member's name is never a path on this machine. Knows nothing of resolution, splits or packing.
"""

import inspect
import io
import re
import stat
import tarfile
import threading
import zipfile
from abc import ABC, abstractmethod
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

from PIL import Image, ImageOps, UnidentifiedImageError

from genxfer.data.config import ArchiveSource, FolderSource, PackageSource, TorchvisionSource
from genxfer.data.raw import AnySource, check_names, existing_path, list_files, package_names, package_pixels, selected
from genxfer.errors import DataError, ParameterError, nearest

MAX_FILE_BYTES = 256 * 2**20  # a member that unpacks to more is taken for a bomb


class UndecodableError(DataError):
    """One file that is no usable image; the message is the reason, and the same on every machine."""


class RawImages(ABC):
    """Named images of one source, in an order that depends on the source's content alone."""

    names: list[str]

    def __len__(self) -> int:
        return len(self.names)

    @abstractmethod
    def fetch(self, index: int) -> Callable[[], Image.Image]:
        """Read what must be read in order, and return the rest of the work, which any thread may do.

        Both raise UndecodableError.
        """

    def load(self, index: int) -> Image.Image:
        """Return image `index`, decoded; raises UndecodableError with the reason."""
        return self.fetch(index)()


def open_source(source: AnySource) -> RawImages:
    """Return the raw images of `source`; raises DataError when it is missing or cannot be read at all."""
    if isinstance(source, FolderSource):
        return _Folder(existing_path(source), source.glob)
    if isinstance(source, ArchiveSource):
        path = existing_path(source)
        # A zip is told by its end, so a tar whose last member is one passes for it; a tar is told by its beginning.
        if tarfile.is_tarfile(path):
            return _Tar(path, source.glob)
        if zipfile.is_zipfile(path):
            return _Zip(path, source.glob)
        raise DataError(f"{source.path} is neither a zip nor a tar archive, or it is damaged.")
    if isinstance(source, PackageSource):
        return _Package(source)
    return _Torchvision(source)


def decode(file: Path | io.BytesIO) -> Image.Image:
    """Return the first frame of an image file, turned upright as its EXIF data say; raises UndecodableError."""
    try:
        image = Image.open(file)
        image.info["stored_size"] = image.size
        # JPEG decodes at down to an eighth of its size: no need to decode a photo at many times the largest resolution.
        if image.mode in ("L", "RGB"):
            image.draft(None, (1024, 1024))
        image.load()
        return ImageOps.exif_transpose(image)
    except Exception as error:  # decoders raise what they like; any of it is a property of the file
        raise UndecodableError(_reason(error)) from error


def _reason(error: Exception) -> str:
    if isinstance(error, UnidentifiedImageError):
        return "not an image in a known format"
    text = error.strerror if isinstance(error, OSError) and error.strerror else str(error)
    return re.sub(r"0x[0-9a-f]+", "0x...", f"{type(error).__name__}: {text}")


class _Folder(RawImages):
    def __init__(self, folder: Path, glob: str) -> None:
        self._folder = folder
        self.names = list_files(folder, glob)

    def fetch(self, index: int) -> Callable[[], Image.Image]:
        return partial(decode, self._folder / self.names[index])


class _Archive(RawImages):
    """Members are read one after the other by one thread: going back in a compressed tar means starting again."""

    def __init__(self) -> None:
        self._reading = threading.Lock()

    def fetch(self, index: int) -> Callable[[], Image.Image]:
        if _leaves_archive(self.names[index]):
            raise UndecodableError("its name leads out of the archive")
        try:
            with self._reading:
                content = self._read(index)
        except UndecodableError:
            raise
        except Exception as error:  # as in `decode`
            raise UndecodableError(_reason(error)) from error
        if len(content) > MAX_FILE_BYTES:
            raise UndecodableError(f"unpacks to more than {MAX_FILE_BYTES:,} bytes")
        return partial(decode, io.BytesIO(content))

    @abstractmethod
    def _read(self, index: int) -> bytes:
        """Return at most MAX_FILE_BYTES + 1 bytes of a member."""


def _leaves_archive(name: str) -> bool:
    parts = name.replace("\\", "/").split("/")
    return ".." in parts or parts[0] == "" or parts[0].endswith(":")


class _Zip(_Archive):
    def __init__(self, path: Path, glob: str) -> None:
        super().__init__()
        try:
            self._file = zipfile.ZipFile(path)
        except zipfile.BadZipFile as error:
            raise DataError(f"{path} is a damaged zip archive: {error}.") from error
        self._members = [m for m in self._file.infolist() if not m.is_dir() and selected(m.filename, glob)]
        self.names = [member.filename for member in self._members]

    def _read(self, index: int) -> bytes:
        member = self._members[index]
        if stat.S_ISLNK(member.external_attr >> 16):
            raise UndecodableError("a symbolic link")
        with self._file.open(member) as file:
            return file.read(MAX_FILE_BYTES + 1)


class _Tar(_Archive):
    def __init__(self, path: Path, glob: str) -> None:
        super().__init__()
        try:
            self._file = tarfile.open(path)  # noqa: SIM115  # open as long as its images are
            members = self._file.getmembers()
        except (tarfile.TarError, OSError, EOFError) as error:
            raise DataError(f"{path} is a damaged tar archive: {error}.") from error
        self._members = [m for m in members if not m.isdir() and selected(m.name.removeprefix("./"), glob)]
        self.names = check_names([member.name.removeprefix("./") for member in self._members], path)

    def _read(self, index: int) -> bytes:
        member = self._members[index]
        file = self._file.extractfile(member) if member.isreg() else None  # follows links if one lets it
        if file is None:
            raise UndecodableError("a symbolic link" if member.issym() else "a link or device, not a file")
        return file.read(MAX_FILE_BYTES + 1)


class _Package(RawImages):
    def __init__(self, source: PackageSource) -> None:
        self._pixels = package_pixels(source.kind)
        self.names = package_names(source.kind)

    def fetch(self, index: int) -> Callable[[], Image.Image]:
        return partial(Image.fromarray, self._pixels[index])


class _Torchvision(RawImages):
    def __init__(self, source: TorchvisionSource) -> None:
        self._dataset = _open_torchvision(source)
        self.names = [f"{source.name}_{source.split}_{index:07d}" for index in range(len(self._dataset))]

    def fetch(self, index: int) -> Callable[[], Image.Image]:
        return partial(self._load, index)

    def _load(self, index: int) -> Image.Image:
        try:
            image = self._dataset[index][0]
        except Exception as error:  # as in `decode`
            raise UndecodableError(_reason(error)) from error
        if not isinstance(image, Image.Image):
            raise UndecodableError(f"a {type(image).__name__}, not an image")
        return image


def _open_torchvision(source: TorchvisionSource) -> Any:
    import torchvision.datasets as known

    base = known.VisionDataset
    kinds = {name: kind for name in known.__all__ if isinstance(kind := getattr(known, name), type)}
    kinds = {name: kind for name, kind in kinds.items() if issubclass(kind, base) and kind is not base}
    if source.name not in kinds:
        raise ParameterError(
            f"The torchvision data set is called {source.name!r}, which torchvision.datasets does not have."
            f"{nearest(source.name, kinds)}"
        )
    data_set = kinds[source.name]
    accepted = inspect.signature(data_set).parameters
    wanted: dict[str, Any] = {"root": source.root, "download": source.download, "train": source.split == "train"}
    wanted |= {"split": source.split, "image_set": source.split}
    if "train" in accepted and source.split not in ("train", "test"):
        raise ParameterError(
            f"The split of torchvision data set {source.name!r} is {source.split!r}; it has train, test."
        )
    try:
        return data_set(**{name: value for name, value in wanted.items() if name in accepted})
    except (RuntimeError, OSError) as error:
        raise DataError(
            f"torchvision cannot open {source.name!r} under {source.root!r}: {error} Put the data there, or set "
            "`download` of this data set to true."
        ) from error
    except (ValueError, TypeError) as error:
        raise ParameterError(f"torchvision refuses {source.name!r} with split {source.split!r}: {error}") from error
