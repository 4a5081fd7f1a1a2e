"""The training images of a package's target domain as PNG files, so that a user sees what to replace with their own.

Written when the stage `dataset_target` runs, before it reads the target; a cached result holds as long as the folder is
as that run left it (`target_moved` in `stages/dataset.py`). Without Pillow, as writing gray pixels as PNG takes a few
lines. Knows nothing of packing.
"""

import struct
import zlib
from collections.abc import Mapping
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from genxfer.artifacts.atomic import sweep, write_atomic
from genxfer.artifacts.disk import permitted
from genxfer.data.config import DatasetConfig, PackageTarget
from genxfer.data.raw import package_names, package_pixels
from genxfer.data.split import check_split, split_order
from genxfer.errors import DataError


def export_target_pngs(config: DatasetConfig) -> Path | None:
    """Make the target folder hold exactly the training images, at their own size; None unless a package is the target.

    Files of another `n_train` are kept where they fit and removed where they do not. Raises DataError, and touches
    nothing, when the folder holds anything that was not written here.
    """
    target = config.target
    if not isinstance(target, PackageTarget):
        return None
    check_split(config)
    folder = Path(target.path)
    names = package_names(target.kind)
    pixels = dict(zip(names, package_pixels(target.kind), strict=True))
    wanted = {names[index] for index in split_order(names, config.seed)[: target.n_train]}
    with permitted("The training images cannot be laid out in dataset.target.path", DataError):
        present = _check_ours(folder, pixels, target.kind)
        for name in sorted(present - wanted):
            (folder / name).unlink()
        for name in sorted(wanted - present):
            write_atomic(folder / name, png(pixels[name]))
    return folder


def png(pixels: NDArray[np.uint8]) -> bytes:
    """Return gray pixels [H W] as a PNG file, uncompressed: the same bytes with every version of zlib, so one md5."""
    height_px, width_px = pixels.shape
    rows = b"".join(b"\0" + row.tobytes() for row in pixels)  # each begins with its filter: none
    header = struct.pack(">IIBBBBB", width_px, height_px, 8, 0, 0, 0, 0)
    chunks = ((b"IHDR", header), (b"IDAT", zlib.compress(rows, 0)), (b"IEND", b""))
    return b"\x89PNG\r\n\x1a\n" + b"".join(
        struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data)) for kind, data in chunks
    )


def _check_ours(folder: Path, pixels: Mapping[str, NDArray[np.uint8]], kind: str) -> set[str]:
    """Return the names in `folder`; raises DataError unless each holds the package's image of its name."""
    if not folder.exists():
        return set()
    if not folder.is_dir():
        raise DataError(
            f"dataset.target.path is {str(folder)!r}, which is not a folder. Name another one, or remove it."
        )
    sweep(folder)
    entries = sorted(path for path in folder.iterdir() if not path.name.startswith("."))
    for path in entries:
        if path.name not in pixels or not path.is_file() or path.read_bytes() != png(pixels[path.name]):
            raise DataError(
                f"{folder} holds images that {kind!r} did not write (first: {path.name}). To train on what is in the "
                f"folder set dataset.target.kind=folder and dataset.target.path={folder}; to get {kind} back remove "
                "the folder."
            )
    return {path.name for path in entries}
