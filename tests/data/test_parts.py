"""No image of a part is, or nearly is, in another: whatever the files, whatever was asked for."""

import itertools
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from image_files import dataset, encoded, pixels
from PIL import Image

from genxfer.data.duplicates import describe, twins
from genxfer.data.pack import pack_target
from genxfer.errors import ParameterError

PARTS = ("train", "validation", "test")


def copies(seed: int) -> dict[str, bytes]:
    """Return four files of one picture: as it is, and saved again in the ways in which pictures come to lie twice."""
    image = Image.fromarray(pixels(seed, 64, 64, 3))
    return {
        "original.png": encoded(image),
        "again.jpg": encoded(image, "JPEG", quality=70),
        "small.jpg": encoded(image.resize((40, 40)), "JPEG", quality=90),
        "darker.png": encoded(image.point(lambda level: round(level * 0.9))),
    }


def write(folder: Path, seeds: range, names: tuple[str, ...] | None = None) -> Path:
    folder.mkdir()
    for seed in seeds:
        for name, content in copies(seed).items():
            if names is None or name in names:
                (folder / f"{seed:02d}_{name}").write_bytes(content)
    return folder


def pack(out_dir: Path, folder: Path, n_train: int, **more: Any) -> dict[str, Any]:
    target = {"kind": "folder", "path": str(folder), "n_train": n_train, **more}
    return pack_target(dataset(target=target, channels=3), out_dir, md5=None)


def names_of(manifest: dict[str, Any]) -> dict[str, list[str]]:
    return {part: manifest["arrays"][part]["names"] for part in PARTS}


def crossings(out_dir: Path) -> int:
    """Count the images that are near-duplicates of one in an earlier part."""
    train, validation, test = (describe(np.load(out_dir / f"{part}.npy")) for part in PARTS)
    return len(twins(train, validation)) + len(twins(train, test)) + len(twins(validation, test))


def told(manifest: dict[str, Any]) -> dict[str, int]:
    return {entry["check"]: entry["images"] for entry in manifest["findings"]}


@pytest.mark.parametrize("n_train", [8, 9, 10, 30])
def test_near_duplicates_lie_on_one_side(tmp_path: Path, n_train: int) -> None:
    manifest = pack(tmp_path / "out", write(tmp_path / "in", range(16)), n_train)
    names = names_of(manifest)
    assert len(names["train"]) == n_train
    assert crossings(tmp_path / "out") == 0
    sides = [{name[:2] for name in names[part]} for part in PARTS]
    assert not sides[0] & sides[1] | sides[0] & sides[2] | sides[1] & sides[2]
    left_out = manifest["left_out"]
    assert sum(map(len, names.values())) + left_out["n"] == 64
    assert len(left_out["names"]) == left_out["n"] <= 3 + 3  # what the two borders cut, and no more


def test_training_sets_are_nested_with_near_duplicates_too(tmp_path: Path) -> None:
    folder = write(tmp_path / "in", range(16))
    chosen = [set(names_of(pack(tmp_path / str(n), folder, n))["train"]) for n in (3, 4, 17, 30)]
    assert all(few < many for few, many in itertools.pairwise(chosen))


def test_the_rest_of_a_group_larger_than_the_training_set_is_in_no_part(tmp_path: Path) -> None:
    folder = write(tmp_path / "in", range(12), ("original.png",))
    group = copies(99)["original.png"]
    for index in range(40):
        (folder / f"copy{index:02d}.png").write_bytes(group)
    manifest = pack(tmp_path / "out", folder, 13)  # more than there are of the others, so some of the group are in
    names = names_of(manifest)
    trained_on = [name for name in names["train"] if name.startswith("copy")]
    assert len(names["train"]) == 13
    assert not [name for part in PARTS[1:] for name in names[part] if name.startswith("copy")]
    assert manifest["left_out"]["n"] == 40 - len(trained_on) > 0
    assert told(manifest)["left out: near-duplicate of a training image"] == manifest["left_out"]["n"]


def test_a_leak_of_training_images_into_the_held_out_ones_is_caught(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    folder = write(tmp_path / "in", range(6), ("original.png",))
    others = write(tmp_path / "others", range(20, 30), ("original.png",))
    for seed in range(6):
        (others / f"leaked{seed}.jpg").write_bytes(copies(seed)["small.jpg"])
    with caplog.at_level("INFO", "genxfer.data"):
        manifest = pack(tmp_path / "out", folder, 6, heldout={"kind": "folder", "path": str(others)})
    assert manifest["left_out"] == {"n": 6, "names": [f"leaked{seed}.jpg" for seed in range(6)]}
    assert told(manifest)["left out: near-duplicate of a training image"] == 6
    assert "left out: near-duplicate of a training image: 6 images (leaked0.jpg" in caplog.text
    assert [len(names) for names in names_of(manifest).values()] == [6, 5, 5]
    assert crossings(tmp_path / "out") == 0


def test_held_out_images_that_are_all_training_images_are_an_error_that_says_so(tmp_path: Path) -> None:
    folder = write(tmp_path / "in", range(6), ("original.png",))
    others = write(tmp_path / "others", range(6), ("again.jpg",))
    with pytest.raises(ParameterError, match=r"heldout names 0 images to hold out beside 6 near-duplicates"):
        pack(tmp_path / "out", folder, 6, heldout={"kind": "folder", "path": str(others)})
    assert not list((tmp_path / "out").iterdir())


def test_validation_images_that_take_all_test_images_with_them_are_an_error(tmp_path: Path) -> None:
    folder = write(tmp_path / "in", range(1), ("original.png",))
    for index in range(7):
        (folder / f"copy{index}.png").write_bytes(copies(99)["original.png"])
    others = write(tmp_path / "others", range(3, 4))
    (others / "other.png").write_bytes(copies(5)["original.png"])
    (others / "another.png").write_bytes(copies(6)["original.png"])
    with pytest.raises(ParameterError, match=r"are left to test on.*near-duplicates of validation.*n_validation to 0"):
        pack(tmp_path / "out", folder, 8, heldout={"kind": "folder", "path": str(others)}, n_validation=3)


def test_what_follows_a_near_duplicate_into_training_is_told(tmp_path: Path) -> None:
    manifest = pack(tmp_path / "out", write(tmp_path / "in", range(16)), 12)
    moved = told(manifest)["training image only because a near-duplicate is one"]
    assert 0 < moved < 12


def test_the_training_images_of_a_package_are_told_by_their_names_alone(tmp_path: Path) -> None:
    from genxfer.data.raw import package_names
    from genxfer.data.split import split_order

    manifest = pack_target(dataset(target={"kind": "digits", "n_train": 900}), tmp_path / "out", md5=None)
    names = package_names("digits")
    assert manifest["arrays"]["train"]["names"] == sorted(names[i] for i in split_order(names, 0)[:900])
    assert crossings(tmp_path / "out") == 0
    assert 0 < manifest["left_out"]["n"] < 10
