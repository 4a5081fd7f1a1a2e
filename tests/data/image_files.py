"""Real image files and archives for the tests of this room."""

import io
import tarfile
import zipfile
from pathlib import Path

import numpy as np
from PIL import Image

from genxfer.data.config import DatasetConfig


def pixels(seed: int, *shape: int) -> np.ndarray:
    """Random uint8 pixels in coarse squares, so that no decoder's rounding matters much."""
    coarse = np.random.default_rng(seed).integers(0, 256, (4, 4, *shape[2:]), dtype=np.uint8)
    return np.repeat(np.repeat(coarse, shape[0] // 4, 0), shape[1] // 4, 1)


def encoded(image: Image.Image, kind: str = "PNG", **options: object) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, kind, **options)
    return buffer.getvalue()


def png_bytes(seed: int, *shape: int) -> bytes:
    return encoded(Image.fromarray(pixels(seed, *(shape or (16, 16)))))


def write_zip(path: Path, members: dict[str, bytes]) -> Path:
    with zipfile.ZipFile(path, "w") as archive:
        for name, content in members.items():
            archive.writestr(name, content)
    return path


def write_tar(path: Path, members: dict[str, bytes]) -> Path:
    with tarfile.open(path, f"w:{path.suffix.lstrip('.').replace('tar', '')}") as archive:
        for name, content in members.items():
            info = tarfile.TarInfo(name)
            info.size = len(content)
            archive.addfile(info, io.BytesIO(content))
    return path


def dataset(**changes: object) -> DatasetConfig:
    return DatasetConfig.model_validate({"resolution_px": 16} | changes)
