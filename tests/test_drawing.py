"""The verbs that draw from a trained model, as a shell calls them: what is written, and what is refused."""

import errno
import io
import re
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from genxfer.cli import main
from genxfer.registry import onnx_export
from genxfer.registry.pull import load_images, load_sampler
from tests.registry.trained_like import snapshot_of


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A working folder with a model in `model`."""
    monkeypatch.chdir(tmp_path)
    snapshot_of("dcgan", tmp_path / "model", channels=3)
    return tmp_path


def draw(*arguments: str) -> None:
    assert main(arguments) == 0


def test_the_name_of_the_output_says_what_it_is(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    images = load_images("model", 5, seed=3)
    draw("sample", "model", "-n", "5", "--seed", "3", "-o", "array.npy")
    assert np.array_equal(np.load(folder / "array.npy"), images)

    draw("sample", "model", "-n", "5", "--seed", "3", "-o", "new/folder")
    files = sorted((folder / "new" / "folder").iterdir())
    assert [file.name for file in files] == [f"{i:05}.png" for i in range(5)]
    assert np.array_equal(np.stack([np.asarray(Image.open(file)) for file in files]), images)
    assert sorted(path.name for path in (folder / "new").iterdir()) == ["folder"]

    draw("sample", "model", "-n", "5", "--seed", "3", "-o", "grid.png")
    grid = np.asarray(Image.open(folder / "grid.png"))
    assert np.array_equal(grid[:96:6, :96:6], images[0])
    assert np.array_equal(grid[98 : 98 + 96 : 6, :96:6], images[2])
    assert capsys.readouterr().out.split() == ["array.npy", "new/folder", "grid.png"]


def test_a_temperature_moves_samples_towards_each_other(folder: Path) -> None:
    spread = []
    for temperature in ("0", "0.5", "1"):
        draw("sample", "model", "-n", "32", "--temperature", temperature, "-o", f"{temperature}.npy")
        spread.append(np.load(folder / f"{temperature}.npy").std(axis=0).mean())
    assert spread[0] == 0
    assert 0 < spread[1] < spread[2]
    assert np.array_equal(np.load(folder / "1.npy"), load_images("model", 32, seed=0))


def test_a_grid_of_ways_has_a_row_for_each(folder: Path) -> None:
    draw("interpolate", "model", "--rows", "2", "--frames", "4", "--seed", "5")
    grid = np.asarray(Image.open(folder / "interpolation.png"))
    ways = load_sampler("model").interpolations(2, 4, seed=5)
    assert grid.shape == (2 * 98 - 2, 4 * 98 - 2, 3)
    for row in range(2):
        for frame in range(4):
            assert np.array_equal(grid[row * 98 :, frame * 98 :][:96:6, :96:6], ways[row, frame])
    assert np.array_equal(ways[:, [0, -1]].reshape(-1, 16, 16, 3), load_images("model", 4, seed=5))


@pytest.mark.parametrize("channels", [1, 3])
def test_an_animation_goes_there_and_back_in_a_loop(folder: Path, channels: int) -> None:
    snapshot_of("dcgan", folder / "other", channels=channels)
    draw("interpolate", "other", "--rows", "4", "--frames", "5", "-o", "ways.gif")
    ways = load_sampler("other").interpolations(4, 5, seed=0)
    with Image.open(folder / "ways.gif") as animation:
        assert (animation.n_frames, animation.info["loop"], animation.size) == (8, 0, (194, 194))
        shown = []
        for frame in range(animation.n_frames):
            animation.seek(frame)
            shown.append((animation.info["duration"], np.asarray(animation.convert("RGB")).astype(int)))
    assert [duration_ms for duration_ms, _ in shown] == [600, 60, 60, 60, 600, 60, 60, 60]
    for (_, picture), frame in zip(shown, (0, 1, 2, 3, 4, 3, 2, 1), strict=True):
        first = picture[:96:6, :96:6] - ways[0, frame]  # gray images spread over three channels
        assert np.abs(first).mean() < (10 if channels == 3 else 0.01)  # a GIF has 256 colours


def test_the_same_command_writes_the_same_bytes(folder: Path) -> None:
    for output in ("grid.png", "array.npy"):
        draw("sample", "model", "-n", "3", "-o", f"1-{output}")
        draw("sample", "model", "-n", "3", "-o", f"2-{output}")
        assert (folder / f"1-{output}").read_bytes() == (folder / f"2-{output}").read_bytes()
    for name in ("1.gif", "2.gif"):
        draw("interpolate", "model", "--frames", "3", "--rows", "1", "-o", name)
    assert (folder / "1.gif").read_bytes() == (folder / "2.gif").read_bytes()


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["sample", "model", "-n", "10001"], "-n is 10001; allowed: 1 to 10000"),
        (["sample", "model", "-o", "samples.jpg"], "'samples.jpg'; its name says.* .png or .* .npy or a folder"),
        (["sample", "model", "-o", "."], r"-o is '\.'; its name says what is written: .* or a folder"),
        (["sample", "model", "-o", ""], "-o is ''; its name says what is written"),
        (["sample", "model", "-o", "/"], "-o is '/'; its name says what is written"),
        (["sample", "model", "-o", "new/.."], r"-o is 'new/\.\.'; its name says what is written"),
        (["sample", "model", "-o", "model"], "'model', which is there already and not an empty folder"),
        (["sample", "model", "-o", "file"], "'file', which is there already and not an empty folder"),
        (["sample", "model", "-o", "folder.png"], "'folder.png', which is a folder; name a file"),
        (["sample", "model", "-o", "file/a.png"], "'file/a.png', which cannot be written: Not a directory, file"),
        (["sample", "model", "-o", "file/a"], "'file/a', which cannot be written"),
        (["sample", "model", "--temperature", "11"], "temperature is 11.0; allowed is 0 to 10"),
        (["sample", "model", "--seed", "-1"], "seed is -1; allowed is 0 to"),
        (["interpolate", "model", "--rows", "65"], "--rows is 65; allowed: 1 to 64"),
        (["interpolate", "model", "--frames", "1"], "--frames is 1; allowed: 2 to 120"),
        (["interpolate", "model", "-o", "way.npy"], "ends in .png or a file that ends in .gif"),
        (["interpolate", "model", "--seed", "-1"], "seed is -1; allowed is 0 to"),
        (["export", "model", "-o", "generator.pt"], "a file that ends in .onnx"),
        (["export", "model", "-o", "file/a.onnx"], "'file/a.onnx', which cannot be written: Not a directory, file"),
    ],
)
def test_what_cannot_be_written_is_said_and_nothing_is_left(
    folder: Path, capsys: pytest.CaptureFixture[str], arguments: list[str], said: str
) -> None:
    (folder / "file").write_text("mine")
    (folder / "folder.png").mkdir()
    before = {path: path.read_bytes() for path in folder.rglob("*") if path.is_file()}
    assert main(arguments) == 2
    captured = capsys.readouterr()
    assert captured.out == ""
    assert re.search(said, captured.err), captured.err
    assert {path: path.read_bytes() for path in folder.rglob("*") if path.is_file()} == before


@pytest.mark.parametrize("verb", ["sample", "interpolate"])
@pytest.mark.parametrize("asked", ["--seed=-1", "--temperature=nan", "--output=file/a.png"])
def test_what_is_asked_for_is_checked_before_the_model_is_looked_for(
    folder: Path, capsys: pytest.CaptureFixture[str], verb: str, asked: str
) -> None:
    (folder / "file").touch()
    assert main([verb, "nowhere", asked]) == 2  # 6 once the model is looked for
    assert "nowhere" not in capsys.readouterr().err


def test_an_onnx_file_that_cannot_be_written_in_the_end_is_a_message(
    folder: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(path: Path, data: bytes) -> None:
        raise OSError(errno.ENOSPC, "No space left on device", str(path))

    monkeypatch.setattr(onnx_export, "write_atomic", full)
    assert main(["export", "model"]) == 2
    assert "'generator.onnx', which cannot be written: No space left on device" in capsys.readouterr().err


def test_an_empty_folder_may_be_filled(folder: Path) -> None:
    (folder / "empty").mkdir()
    draw("sample", "model", "-n", "2", "-o", "empty")
    assert len(list((folder / "empty").iterdir())) == 2
    assert np.asarray(Image.open(io.BytesIO((folder / "empty" / "00001.png").read_bytes()))).shape == (16, 16, 3)
