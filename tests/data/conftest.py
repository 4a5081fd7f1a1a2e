from pathlib import Path

import pytest
from image_files import png_bytes


@pytest.fixture(autouse=True)
def in_own_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Twelve gray PNG images, 16x16, some in a folder of their own."""
    root = tmp_path / "images"
    (root / "more").mkdir(parents=True)
    for index in range(12):
        (root / ("more" if index % 3 == 0 else "") / f"{index:02d}.png").write_bytes(png_bytes(index))
    return root
