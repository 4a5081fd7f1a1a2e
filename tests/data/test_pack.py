import errno
import json
import logging
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from image_files import dataset, encoded, pixels, png_bytes, write_tar, write_zip
from PIL import Image

from genxfer.artifacts.fingerprint import digest_file
from genxfer.data import pack
from genxfer.data.config import DatasetConfig
from genxfer.data.pack import pack_source, pack_target
from genxfer.data.raw import raw_digest
from genxfer.errors import DataError, ParameterError, StoreError


def finding(manifest: dict[str, Any], words: str) -> dict[str, Any] | None:
    return next((entry for entry in manifest["findings"] if words in entry["check"]), None)


def test_the_demo_packs_both_domains(tmp_path: Path) -> None:
    config = DatasetConfig()
    source = pack_source(config, tmp_path / "source")
    target = pack_target(config, tmp_path / "target", md5="abc.dir")
    arrays = ("source/train.npy", "target/train.npy", "target/validation.npy", "target/test.npy")
    counts = [len(np.load(tmp_path / array)) for array in arrays]
    assert counts == [5000, 100, 256, 1441 - target["left_out"]["n"]]
    assert target["left_out"]["n"] <= 2
    assert np.load(tmp_path / "target/test.npy").shape[1:] == (1, 32, 32)
    assert source["rejects"] == target["rejects"] == []
    assert target["dvc_md5"] == "abc.dir"
    assert target["raw_digest"] == raw_digest(config.target)
    assert finding(target, "enlarged")["images"] == 1797


def test_a_folder_is_packed_in_the_order_of_its_names(folder: Path, tmp_path: Path) -> None:
    manifest = pack_source(dataset(source={"kind": "folder", "path": str(folder)}), tmp_path / "out")
    names = manifest["arrays"]["train"]["names"]
    assert names == sorted(path.relative_to(folder).as_posix() for path in folder.rglob("*.png"))
    expected = np.stack([pixels(int(Path(name).stem), 16, 16) for name in names])[:, None]
    np.testing.assert_array_equal(np.load(tmp_path / "out" / "train.npy"), expected)


def test_the_output_is_complete_and_the_same_again(folder: Path, tmp_path: Path) -> None:
    config = dataset(target={"kind": "folder", "path": str(folder), "n_train": 4})
    manifest = pack_target(config, tmp_path / "a", md5=None)
    pack_target(config, tmp_path / "b", md5=None)
    names = ["manifest.json", "test.npy", "train.npy", "validation.npy"]
    assert sorted(path.name for path in (tmp_path / "a").iterdir()) == names
    assert all((tmp_path / "a" / name).read_bytes() == (tmp_path / "b" / name).read_bytes() for name in names)
    assert json.loads((tmp_path / "a" / "manifest.json").read_text()) == manifest
    assert manifest["arrays"]["train"]["sha256"] == digest_file(tmp_path / "a" / "train.npy")
    assert str(tmp_path) not in (tmp_path / "a" / "manifest.json").read_text()


@pytest.mark.parametrize("suffix", [".zip", ".tar.gz"])
def test_an_archive_packs_like_its_folder(folder: Path, tmp_path: Path, suffix: str) -> None:
    members = {path.relative_to(folder).as_posix(): path.read_bytes() for path in sorted(folder.rglob("*.png"))}
    path = (write_zip if suffix == ".zip" else write_tar)(tmp_path / f"a{suffix}", members)
    from_archive = pack_source(dataset(source={"kind": "archive", "path": str(path)}), tmp_path / "a")
    from_folder = pack_source(dataset(source={"kind": "folder", "path": str(folder)}), tmp_path / "b")
    assert from_archive["arrays"] == from_folder["arrays"]


def test_training_sets_are_nested_and_no_image_is_in_two_parts(folder: Path, tmp_path: Path) -> None:
    splits = {}
    for n_train in (2, 5, 9):
        config = dataset(target={"kind": "folder", "path": str(folder), "n_train": n_train})
        arrays = pack_target(config, tmp_path / str(n_train), md5=None)["arrays"]
        names = {part: set(array["names"]) for part, array in arrays.items()}
        splits[n_train] = names["train"]
        assert [len(names[part]) for part in arrays] == [arrays[part]["n"] for part in arrays]
        assert sum(map(len, names.values())) == len(set.union(*names.values())) == 12
        assert len(names["train"]) == n_train
    assert splits[2] < splits[5] < splits[9]


def test_more_training_images_come_from_validation_before_any_comes_from_test(folder: Path, tmp_path: Path) -> None:
    tested = {}
    for n_train in (2, 3, 5):
        target = {"kind": "folder", "path": str(folder), "n_train": n_train, "n_validation": 8 - n_train}
        arrays = pack_target(dataset(target=target), tmp_path / str(n_train), md5=None)["arrays"]
        tested[n_train] = arrays["test"]["names"]
    assert tested[2] == tested[3] == tested[5]


def test_without_validation_its_array_is_empty(folder: Path, tmp_path: Path) -> None:
    target = {"kind": "folder", "path": str(folder), "n_train": 9, "n_validation": 0}
    arrays = pack_target(dataset(target=target), tmp_path / "out", md5=None)["arrays"]
    assert {part: array["n"] for part, array in arrays.items()} == {"train": 9, "validation": 0, "test": 3}
    assert np.load(tmp_path / "out" / "validation.npy").shape == (0, 1, 16, 16)


def test_rejects_are_skipped_named_and_change_no_split(
    folder: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    target = {"kind": "folder", "path": str(folder), "n_train": 4}
    before = pack_target(dataset(target=target), tmp_path / "a", md5=None)["arrays"]
    (folder / "000.png").write_text("text")
    with caplog.at_level(logging.WARNING, "genxfer.data"):
        after = pack_target(dataset(target=target, max_rejects=1), tmp_path / "b", md5=None)
    assert after["rejects"] == [{"name": "000.png", "reason": "not an image in a known format"}]
    assert after["arrays"] == before
    assert "000.png" in caplog.text


def test_too_many_rejects_are_an_error_that_names_them(folder: Path, tmp_path: Path) -> None:
    for index in range(3):
        (folder / f"bad{index}.png").write_text("text")
    config = dataset(source={"kind": "folder", "path": str(folder)}, max_rejects=2)
    with pytest.raises(DataError, match=r"3 files.*max_rejects allows 2.*bad0\.png \(not an image"):
        pack_source(config, tmp_path / "out")
    assert not list((tmp_path / "out").iterdir())


def test_hostile_members_are_rejects(tmp_path: Path) -> None:
    path = write_tar(tmp_path / "a.tar.gz", {"good.png": png_bytes(0), "../evil.png": png_bytes(1)})
    source = {"kind": "archive", "path": str(path)}
    manifest = pack_source(dataset(source=source, max_rejects=1), tmp_path / "out")
    assert manifest["n"] == 1
    assert manifest["rejects"][0]["name"] == "../evil.png"


def test_no_image_at_all_is_an_error(tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    with pytest.raises(DataError, match="has no images"):
        pack_source(dataset(source={"kind": "folder", "path": "empty"}), tmp_path / "out")


def test_an_archive_with_too_few_images_is_a_parameter_error(tmp_path: Path) -> None:
    write_zip(tmp_path / "a.zip", {f"{index}.png": png_bytes(index) for index in range(5)})
    with pytest.raises(ParameterError, match=r"n_train is 3.*2 or less"):
        pack_target(dataset(target={"kind": "archive", "path": "a.zip", "n_train": 3}), tmp_path / "out", md5=None)


def test_the_images_to_hold_out_can_come_from_elsewhere(folder: Path, tmp_path: Path) -> None:
    (tmp_path / "other").mkdir()
    for index in range(8):
        (tmp_path / "other" / f"{index}.png").write_bytes(png_bytes(50 + index))
    target = {"kind": "folder", "path": str(folder), "n_train": 12, "heldout": {"kind": "folder", "path": "other"}}
    manifest = pack_target(dataset(target=target), tmp_path / "out", md5=None)
    held_out = manifest["arrays"]["validation"]["names"] + manifest["arrays"]["test"]["names"]
    assert sorted(held_out) == [f"{index}.png" for index in range(8)]
    assert [array["n"] for array in manifest["arrays"].values()] == [12, 4, 4]


def test_the_doctor_names_what_looks_wrong(tmp_path: Path) -> None:
    (tmp_path / "in").mkdir()
    colour = Image.fromarray(pixels(5, 64, 64, 3))
    files = {
        "a.png": encoded(Image.fromarray(pixels(0, 64, 64))),
        "b.png": encoded(Image.fromarray(pixels(0, 64, 64))),
        "colour.png": encoded(colour),
        "flat.png": encoded(Image.new("L", (64, 64), 80)),
        "long.png": encoded(Image.fromarray(pixels(1, 64, 256))),
        "small.png": png_bytes(2, 8, 8),
    }
    for name, content in files.items():
        (tmp_path / "in" / name).write_bytes(content)
    manifest = pack_source(dataset(source={"kind": "folder", "path": "in"}), tmp_path / "out")
    assert {entry["check"]: entry["examples"] for entry in manifest["findings"]} == {
        "exact duplicate of an earlier image": ["b.png"],
        "nearly constant": ["flat.png"],
        "smaller than the resolution, enlarged": ["small.png"],
        "colour packed as gray": ["colour.png"],
        "more than twice as long as wide, cropped": ["long.png"],
    }


def test_statistics_are_those_of_the_array(folder: Path, tmp_path: Path) -> None:
    manifest = pack_source(dataset(source={"kind": "folder", "path": str(folder)}, channels=3), tmp_path / "out")
    array = np.load(tmp_path / "out" / "train.npy").astype(float)
    np.testing.assert_allclose(manifest["arrays"]["train"]["mean"], array.mean((0, 2, 3)), atol=1e-3)
    np.testing.assert_allclose(manifest["arrays"]["train"]["std"], array.std((0, 2, 3)), atol=1e-3)


def test_reading_ahead_is_bounded(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from genxfer.data.sources import open_source

    config = dataset(source={"kind": "mnist"})
    images = open_source(config.source)
    fetched: list[int] = []
    original = images.fetch
    monkeypatch.setattr(images, "fetch", lambda index: (fetched.append(index), original(index))[1])
    outcomes = pack._outcomes(images, config)
    next(outcomes)
    outcomes.close()
    assert 0 < len(fetched) <= 18 * pack._CHUNK
    assert fetched == sorted(fetched)


def test_a_full_disk_is_told_and_leaves_no_manifest(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*_: object, **__: object) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(np.lib.format, "write_array_header_1_0", full)
    with pytest.raises(StoreError, match=r"The packed images did not fit\. No space is left"):
        pack_source(dataset(source={"kind": "folder", "path": str(folder)}), tmp_path / "out")
    assert not (tmp_path / "out" / "manifest.json").exists()
