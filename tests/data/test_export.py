from pathlib import Path

import numpy as np
import pytest
from image_files import dataset, png_bytes
from PIL import Image

from genxfer.data.export import export_target_pngs
from genxfer.data.pack import pack_target
from genxfer.data.raw import package_pixels
from genxfer.errors import DataError, ParameterError


def config(n_train: int = 10, **changes: object):
    return dataset(target={"kind": "digits", "n_train": n_train}, **changes)


def contents(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in folder.iterdir()}


def test_the_files_are_the_packages_images() -> None:
    folder = export_target_pngs(config())
    assert folder == Path("data/target")
    assert len(contents(folder)) == 10
    digits = package_pixels("digits")
    for path in folder.iterdir():
        with Image.open(path) as image:
            np.testing.assert_array_equal(np.asarray(image), digits[int(path.stem.removeprefix("digits_"))])


def test_what_is_shown_is_what_is_trained_on(tmp_path: Path) -> None:
    folder = export_target_pngs(config())
    arrays = pack_target(config(), tmp_path / "out", md5=None)["arrays"]
    assert sorted(contents(folder)) == arrays["train"]["names"]
    as_folder = dataset(target={"kind": "folder", "path": str(folder), "n_train": 10, "heldout": {"kind": "mnist"}})
    assert pack_target(as_folder, tmp_path / "again", md5=None)["arrays"]["train"] == arrays["train"]


def test_another_number_keeps_what_fits(tmp_path: Path) -> None:
    folder = export_target_pngs(config(10))
    ten = contents(folder)
    kept = min(path.stat().st_mtime_ns for path in folder.iterdir())
    assert ten.items() < contents(export_target_pngs(config(30))).items()
    assert contents(export_target_pngs(config(10))) == ten
    assert min(path.stat().st_mtime_ns for path in folder.iterdir()) == kept


def test_another_seed_shows_other_images() -> None:
    first = contents(export_target_pngs(config()))
    second = contents(export_target_pngs(config(seed=1)))
    assert first != second
    assert len(second) == 10


def test_an_interrupted_export_is_completed() -> None:
    folder = export_target_pngs(config())
    whole = contents(folder)
    for path in sorted(folder.iterdir())[::2]:
        path.unlink()
    assert contents(export_target_pngs(config())) == whole


@pytest.mark.parametrize("name", ["mine.png", "digits_0042.png", "digits_9999.png"])
def test_other_peoples_images_are_not_touched(name: str) -> None:
    folder = export_target_pngs(config())
    (folder / name).write_bytes(png_bytes(0))
    before = contents(folder)
    with pytest.raises(DataError, match=rf"'digits' did not write \(first: {name}\).*dataset.target.kind=folder"):
        export_target_pngs(config(20))
    assert contents(folder) == before


def test_only_packages_are_exported_and_too_many_images_write_nothing(folder: Path) -> None:
    assert export_target_pngs(dataset(target={"kind": "folder", "path": str(folder), "n_train": 3})) is None
    with pytest.raises(ParameterError, match="n_train is 1797"):
        export_target_pngs(config(1797))
    assert not Path("data").exists()


def test_a_file_in_the_place_of_the_folder_is_told() -> None:
    Path("data").mkdir()
    Path("data/target").touch()
    with pytest.raises(DataError, match="not a folder"):
        export_target_pngs(config())
