"""`genxfer metrics` on folders and archives, as people use it without a pipeline."""

import importlib.metadata
import json
import shutil
import zipfile
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from sklearn.datasets import load_digits

from genxfer.artifacts.closure import PACKAGE_FOLDER, code_digests
from genxfer.cli import main
from genxfer.metrics import load_extractor
from genxfer.metrics.fid import fid
from genxfer.metrics.kid import kid
from genxfer.metrics.sets import FeatureSets
from genxfer.stages import image_metrics
from tests.conftest import GenxferRun

DIGITS = np.round(load_digits().images * (255 / 16)).astype(np.uint8).repeat(2, axis=1).repeat(2, axis=2)


def write(folder: Path, pixels: np.ndarray) -> Path:
    folder.mkdir()
    for index, image in enumerate(pixels):
        Image.fromarray(image).save(folder / f"{index:04d}.png")
    return folder


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    folder = tmp_path_factory.mktemp("images")
    rng = np.random.default_rng(0)
    noisy = np.clip(DIGITS[100:140] + rng.normal(0, 40, (40, 16, 16)), 0, 255).astype(np.uint8)
    return {
        "real": write(folder / "real", DIGITS[:50]),
        "fake": write(folder / "fake", noisy),
        "train": write(folder / "train", DIGITS[200:220]),
        "copies": write(folder / "copies", DIGITS[200:220]),
    }


def answer(capsys: pytest.CaptureFixture[str], *arguments: object) -> dict[str, Any]:
    code = main(["metrics", *map(str, arguments), "--json"])
    captured = capsys.readouterr()
    assert code == 0, captured.err
    found: dict[str, Any] = json.loads(captured.out)
    return found


def test_the_numbers_are_those_of_the_library_and_say_where_they_come_from(
    folders: dict[str, Path], capsys: pytest.CaptureFixture[str]
) -> None:
    found = answer(capsys, folders["real"], folders["fake"])
    extractor = load_extractor("lite0")
    sides = [sorted(folders[name].iterdir()) for name in ("real", "fake")]
    real, fake = (
        extractor.features(torch.from_numpy(np.stack([np.asarray(Image.open(path)) for path in side]))[:, None])
        for side in sides
    )
    sets = FeatureSets(real, fake)
    assert found["kid"] == pytest.approx(kid(sets).numbers["kid"].value, rel=1e-9)
    assert found["kid_ci"] == pytest.approx(kid(sets).numbers["kid"].interval, rel=1e-9)
    assert found["fid"] == pytest.approx(fid(sets).numbers["fid"].value, rel=1e-9)
    assert {"precision", "recall", "density", "coverage"} <= found.keys()
    assert "memorization" not in found
    assert (found["n_real"], found["n_fake"], found["seed"]) == (50, 40, None)
    assert (found["extractor"], found["extractor_digest"]) == ("lite0", extractor.digest)
    assert all(len(found[f"{side}_digest"]) == 64 for side in ("real", "fake"))
    assert "40 images" in found["notes"][0]


def test_an_archive_has_the_numbers_of_its_folder(
    folders: dict[str, Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with zipfile.ZipFile(tmp_path / "fake.zip", "w") as archive:
        for path in sorted(folders["fake"].iterdir()):
            archive.write(path, path.name)
    asked = ("--metrics", "kid", "fid", "--extractor", "pixels")
    folder, archived = (
        answer(capsys, folders["real"], fake, *asked) for fake in (folders["fake"], tmp_path / "fake.zip")
    )
    assert [folder[name] for name in ("kid", "fid")] == [archived[name] for name in ("kid", "fid")]
    assert "precision" not in folder


def test_copies_of_training_images_are_named_with_what_they_copy(
    folders: dict[str, Path], capsys: pytest.CaptureFixture[str]
) -> None:
    found = answer(capsys, folders["real"], folders["copies"], "--train", folders["train"])
    assert found["memorization"] == 1
    assert found["memorization_passed"] is False
    assert found["n_train"] == 20
    assert all(pair["sample"] == pair["train"] and pair["distance"] == 0 for pair in found["closest"])


def test_images_of_mixed_sizes_modes_and_formats_are_compared(
    folders: dict[str, Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    mixed = tmp_path / "mixed"
    mixed.mkdir()
    for index, mode in enumerate(("L", "RGB", "RGBA", "P", "1", "L")):
        image = Image.fromarray(DIGITS[index]).resize((20 + index, 30)).convert(mode)
        image.save(mixed / f"{index}.{'bmp' if mode == '1' else 'png'}")
    for name in ("list.txt", "paper.pdf", "features.h5", "film.mpg", "drawing.emf", "field.grib"):
        (mixed / name).write_text("not an image, and passed by")
    assert answer(capsys, folders["real"], mixed, "--metrics", "kid")["n_fake"] == 6
    cropped = answer(capsys, folders["real"], mixed, "--metrics", "kid", "--resolution", 16, "--extractor", "lite0")
    assert cropped["resolution_px"] == 16


def test_features_of_real_images_are_kept_where_one_asks(
    folders: dict[str, Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    asked = (folders["real"], folders["fake"], "--extractor", "pixels", "--cache", tmp_path / "kept")
    first = answer(capsys, *asked)
    [kept] = (tmp_path / "kept").iterdir()
    stamp = kept.stat().st_mtime_ns
    assert answer(capsys, *asked) == first
    assert kept.stat().st_mtime_ns == stamp


@pytest.mark.parametrize("changed", ["the code that decodes", "Pillow"])
def test_features_are_not_those_of_images_that_were_decoded_otherwise(
    changed: str,
    folders: dict[str, Path],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    asked = (folders["real"], folders["fake"], "--extractor", "pixels", "--metrics", "kid")
    without = answer(capsys, *asked)
    assert answer(capsys, *asked, "--cache", tmp_path / "kept") == without
    [of_before] = (tmp_path / "kept").iterdir()
    if changed == "Pillow":
        version = importlib.metadata.version
        monkeypatch.setattr(importlib.metadata, "version", lambda name: "0" if name == "pillow" else version(name))
    else:
        edited = tmp_path / "genxfer"
        shutil.copytree(PACKAGE_FOLDER, edited, ignore=shutil.ignore_patterns("__pycache__"))
        code = edited / "data" / "prepare.py"
        code.write_text(code.read_text().replace("clip(0, 65535) * 255", "clip(0, 65535) * 254"))
        monkeypatch.setattr(image_metrics, "code_digests", partial(code_digests, package_folder=edited))
    assert answer(capsys, *asked, "--cache", tmp_path / "kept")["kid"] == without["kid"]
    assert {of_before} < set((tmp_path / "kept").iterdir())


def test_the_table_shows_each_number_and_what_it_was_measured_with(
    folders: dict[str, Path], capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["metrics", *map(str, (folders["real"], folders["fake"], "--extractor", "pixels"))]) == 0
    shown = capsys.readouterr().out
    assert all(text in shown for text in ("kid", "fid", "recall", "40 fake images against 50 real", "pixels", " to "))


@pytest.mark.parametrize(
    ("fake", "more", "code", "expected"),
    [
        ("nowhere", (), 3, "There is no"),
        ("", (), 3, "There is no ''"),
        ("fake", ("--metrics", "kidd"), 2, "Did you mean 'kid'?"),
        ("fake", ("--metrics", "memorization"), 2, "add --train"),
        (
            "fake",
            ("--extractor", "lite"),
            2,
            "--extractor is 'lite'; known names: lite0, pixels, inception, dinov2. Did",
        ),
        ("fake", ("--weights", "a.pth"), 2, "--weights is 'a.pth', but extractor 'lite0' comes with its own"),
        ("fake", ("--weights", "a.pth", "--extractor", "pixels"), 2, "set --extractor to one of: inception, dinov2"),
        ("fake", ("--resolution", "2"), 2, "--resolution is 2"),
        ("two", (), 3, "KID needs at least 3 images"),
        ("none", (), 3, "has no image files"),
        ("broken", (), 3, "0001.png"),
        ("file.txt", (), 3, "neither a zip nor a tar"),
    ],
)
def test_a_mistake_ends_with_its_code_and_names_what_is_wrong(
    fake: str,
    more: tuple[str, ...],
    code: int,
    expected: str,
    folders: dict[str, Path],
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    write(tmp_path / "two", DIGITS[:2])
    write(tmp_path / "broken", DIGITS[:4])
    (tmp_path / "broken" / "0001.png").write_bytes((tmp_path / "broken" / "0002.png").read_bytes()[:60])
    (tmp_path / "none").mkdir()
    (tmp_path / "file.txt").write_text("text")
    place = folders.get(fake, tmp_path / fake if fake else "")
    assert main(["metrics", str(folders["real"]), str(place), *more]) == code
    captured = capsys.readouterr()
    assert expected in captured.err
    assert captured.out == ""


def test_the_verb_works_outside_of_a_project_and_leaves_nothing_behind(
    folders: dict[str, Path], tmp_path: Path, genxfer: GenxferRun
) -> None:
    done = genxfer(tmp_path, "metrics", *map(str, (folders["real"], folders["fake"])), "--extractor", "pixels")
    assert done.returncode == 0, done.stderr
    assert list(tmp_path.iterdir()) == []


def test_a_member_that_leads_out_of_its_archive_is_named_and_not_read(
    folders: dict[str, Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with zipfile.ZipFile(tmp_path / "fake.zip", "w") as archive:
        for path in sorted(folders["fake"].iterdir()):
            archive.write(path, path.name)
        archive.write(path, "../outside.png")
    assert main(["metrics", str(folders["real"]), str(tmp_path / "fake.zip"), "--extractor", "pixels"]) == 3
    assert "../outside.png" in capsys.readouterr().err
