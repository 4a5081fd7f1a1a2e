import gzip
import io
import os
import stat
import struct
import tarfile
import zipfile
from pathlib import Path

import numpy as np
import pytest
from image_files import encoded, pixels, png_bytes, write_tar, write_zip
from PIL import Image

from genxfer.data import sources
from genxfer.data.config import ArchiveSource, FolderSource, PackageSource, TorchvisionSource
from genxfer.data.raw import raw_digest
from genxfer.data.sources import UndecodableError, open_source
from genxfer.errors import DataError, ParameterError

MEMBERS = {f"set/{index}.png": png_bytes(index) for index in range(5)}


def write_mnist(root: Path, images: np.ndarray) -> None:
    """Write MNIST's own files, under torchvision's names for them."""
    (root / "MNIST" / "raw").mkdir(parents=True)
    for name in ("train-images-idx3-ubyte", "t10k-images-idx3-ubyte"):
        (root / "MNIST" / "raw" / name).write_bytes(struct.pack(">iiii", 2051, *images.shape) + images.tobytes())
    for name in ("train-labels-idx1-ubyte", "t10k-labels-idx1-ubyte"):
        (root / "MNIST" / "raw" / name).write_bytes(struct.pack(">ii", 2049, len(images)) + bytes(len(images)))


def reason_of(source: sources.RawImages, name: str) -> str:
    with pytest.raises(UndecodableError) as caught:
        source.load(source.names.index(name))
    return str(caught.value)


@pytest.mark.parametrize("suffix", [".zip", ".tar", ".tar.gz", ".tar.xz"])
def test_an_archive_holds_what_the_folder_held(tmp_path: Path, suffix: str) -> None:
    write = write_zip if suffix == ".zip" else write_tar
    archive = open_source(
        ArchiveSource(path=str(write(tmp_path / f"a{suffix}", MEMBERS | {"read.me": b"no"})), glob="**/*.png")
    )
    assert archive.names == list(MEMBERS)
    for index in range(len(archive)):
        np.testing.assert_array_equal(np.asarray(archive.load(index)), pixels(index, 16, 16))


@pytest.mark.parametrize("suffix", [".zip", ".tar.gz"])
@pytest.mark.parametrize(
    "name", ["../../escaped.png", "/tmp/escaped.png", "a/../../escaped.png", "a\\..\\..\\escaped.png", "C:/x.png"]
)
def test_a_hostile_name_is_named_and_writes_nothing(tmp_path: Path, suffix: str, name: str) -> None:
    write = write_zip if suffix == ".zip" else write_tar
    inner = tmp_path / "inner"
    inner.mkdir()
    archive = open_source(ArchiveSource(path=str(write(inner / f"a{suffix}", MEMBERS | {name: png_bytes(9)}))))
    assert "leads out" in reason_of(archive, name)
    assert archive.load(0).size == (16, 16)
    assert [entry.name for entry in tmp_path.rglob("*") if entry.is_file()] == [f"a{suffix}"]


def test_links_and_devices_in_a_tar_are_not_followed(tmp_path: Path) -> None:
    with tarfile.open(tmp_path / "a.tar", "w") as archive:
        inner = tarfile.TarInfo("real.png")
        inner.size = len(png_bytes(0))
        archive.addfile(inner, io.BytesIO(png_bytes(0)))
        for name, kind, target in (
            ("outside.png", tarfile.SYMTYPE, "/etc/hostname"),
            ("inside.png", tarfile.SYMTYPE, "real.png"),
            ("hard.png", tarfile.LNKTYPE, "real.png"),
            ("pipe.png", tarfile.FIFOTYPE, ""),
        ):
            link = tarfile.TarInfo(name)
            link.type, link.linkname = kind, target
            archive.addfile(link)
    images = open_source(ArchiveSource(path="a.tar"))
    assert images.load(0).size == (16, 16)
    assert {name: reason_of(images, name) for name in images.names[1:]} == {
        "outside.png": "a symbolic link",
        "inside.png": "a symbolic link",
        "hard.png": "a link or device, not a file",
        "pipe.png": "a link or device, not a file",
    }


def test_a_link_in_a_zip_is_not_followed(tmp_path: Path) -> None:
    with zipfile.ZipFile(tmp_path / "a.zip", "w") as archive:
        link = zipfile.ZipInfo("link.png")
        link.external_attr = (stat.S_IFLNK | 0o777) << 16
        archive.writestr(link, "/etc/hostname")
    assert reason_of(open_source(ArchiveSource(path="a.zip")), "link.png") == "a symbolic link"


def test_a_bomb_is_not_unpacked(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sources, "MAX_FILE_BYTES", 1000)
    with zipfile.ZipFile(tmp_path / "a.zip", "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("bomb.png", bytes(10**6))
    assert "unpacks to more than" in reason_of(open_source(ArchiveSource(path="a.zip")), "bomb.png")


def test_a_damaged_archive_is_a_message(tmp_path: Path) -> None:
    whole = write_tar(tmp_path / "a.tar.gz", MEMBERS).read_bytes()
    (tmp_path / "torn.tar.gz").write_bytes(whole[: len(whole) // 2])
    (tmp_path / "text.zip").write_text("no archive")
    for name in ("torn.tar.gz", "text.zip"):
        with pytest.raises(DataError, match=name):
            open_source(ArchiveSource(path=name))


def test_a_tar_whose_last_member_is_a_zip_is_a_tar(tmp_path: Path) -> None:
    inner = write_zip(tmp_path / "inner.zip", {"other.png": png_bytes(9)}).read_bytes()
    whole = write_tar(tmp_path / "a.tar", MEMBERS | {"set/notes.zip": inner})
    assert open_source(ArchiveSource(path=str(whole))).names == [*MEMBERS, "set/notes.zip"]


@pytest.mark.parametrize("kind", ["folder", "tar"])
def test_a_name_that_is_not_utf_8_is_told_unless_the_glob_leaves_it_out(tmp_path: Path, kind: str) -> None:
    name = os.fsdecode(b"caf\xe9.png")
    if kind == "tar":
        write_tar(tmp_path / "images", MEMBERS | {f"set/{name}": png_bytes(9)})
    else:
        (tmp_path / "images" / "set").mkdir(parents=True)
        for member, content in (MEMBERS | {f"set/{name}": png_bytes(9)}).items():
            (tmp_path / "images" / member).write_bytes(content)
    source = FolderSource if kind == "folder" else ArchiveSource
    with pytest.raises(DataError, match=r"images a file is called b'set/caf\\xe9\.png', which is not UTF-8"):
        open_source(source(path=str(tmp_path / "images")))
    assert open_source(source(path=str(tmp_path / "images"), glob="set/[0-9].png")).names == list(MEMBERS)


def test_files_that_are_no_images_are_told_with_a_reason_that_names_no_path(folder: Path) -> None:
    (folder / "text.png").write_text("not an image")
    (folder / "torn.png").write_bytes(encoded(Image.effect_noise((64, 64), 50))[:500])
    (folder / "empty.png").touch()
    (folder / "gone.png").symlink_to(folder / "nowhere.png")
    images = open_source(FolderSource(path=str(folder)))
    reasons = {name: reason_of(images, name) for name in ("text.png", "torn.png", "empty.png", "gone.png")}
    assert reasons["text.png"] == reasons["empty.png"] == "not an image in a known format"
    assert "truncated" in reasons["torn.png"]
    assert "No such file" in reasons["gone.png"]
    assert not any(str(folder) in reason for reason in reasons.values())


def test_an_image_turned_by_its_exif_data_comes_upright(tmp_path: Path) -> None:
    (tmp_path / "in").mkdir()
    image = Image.fromarray(pixels(3, 16, 32))
    exif = Image.Exif()
    exif[0x0112] = 6  # to be turned by 90 degrees clockwise
    image.save(tmp_path / "in" / "a.png", exif=exif)
    loaded = open_source(FolderSource(path="in")).load(0)
    np.testing.assert_array_equal(np.asarray(loaded), np.rot90(pixels(3, 16, 32), -1))


def test_a_large_photo_keeps_its_stored_size_on_record(tmp_path: Path) -> None:
    (tmp_path / "in").mkdir()
    Image.effect_noise((4000, 3000), 40).save(tmp_path / "in" / "a.jpg")
    loaded = open_source(FolderSource(path="in")).load(0)
    assert loaded.info["stored_size"] == (4000, 3000)
    assert 1024 <= min(loaded.size) < 3000


def test_a_package_names_its_images_by_index() -> None:
    images = open_source(PackageSource(kind="digits"))
    assert (len(images), images.names[42], images.load(42).size) == (1797, "digits_0042.png", (8, 8))


def test_a_torchvision_data_set_is_read_from_its_own_files(tmp_path: Path) -> None:
    stored = np.stack([pixels(seed, 28, 28) for seed in range(6)])
    write_mnist(tmp_path / "tv", stored)
    source = TorchvisionSource(name="MNIST", root="tv")
    images = open_source(source)
    assert images.names[1] == "MNIST_train_0000001"
    np.testing.assert_array_equal(np.stack([np.asarray(images.load(i)) for i in range(len(images))]), stored)
    before = raw_digest(source)
    (tmp_path / "tv" / "another_data_set").mkdir()
    (tmp_path / "tv" / "another_data_set" / "file").touch()
    assert raw_digest(source) == before


def test_torchvision_data_that_cannot_be_had_is_explained(tmp_path: Path) -> None:
    with pytest.raises(ParameterError, match="Did you mean 'CIFAR10'"):
        open_source(TorchvisionSource(name="CIFAR01"))
    with pytest.raises(DataError, match="download"):
        open_source(TorchvisionSource(name="MNIST", root="nowhere"))
    with pytest.raises(ParameterError, match="train, test"):
        open_source(TorchvisionSource(name="MNIST", split="valid"))
    with pytest.raises(ParameterError, match="valdi"):
        open_source(TorchvisionSource(name="SVHN", split="valdi"))


@pytest.mark.parametrize("name", ["VisionDataset", "wrap_dataset_for_transforms_v2", "no_such"])
def test_what_torchvision_has_beside_data_sets_is_refused(name: str) -> None:
    with pytest.raises(ParameterError, match=f"called '{name}', which torchvision.datasets does not have"):
        open_source(TorchvisionSource(name=name))


def test_a_gzip_file_that_is_no_tar_is_refused(tmp_path: Path) -> None:
    (tmp_path / "a.tar.gz").write_bytes(gzip.compress(b"text"))
    with pytest.raises(DataError, match="neither a zip nor a tar"):
        open_source(ArchiveSource(path="a.tar.gz"))
