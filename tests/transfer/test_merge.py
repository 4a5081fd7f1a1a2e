"""`genxfer merge`: a source model and the adapter learnt on it are the published model, byte for byte."""

import json
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest

from genxfer.cli import main
from genxfer.training.snapshot import load_snapshot, save_snapshot
from genxfer.transfer.config import Lora
from tests.training.train_small import small_family

FILES = ("snapshot.safetensors", "snapshot.json")


@pytest.fixture
def folder(train_from_source: Callable[..., Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A working folder: the source model, what was trained from it with adapters, and the adapter alone.

    What was trained has another weight of its penalty, which is no part of the nets.
    """
    folder = laid_out(train_from_source("dcgan", Lora(rank=2), r1_gamma=0.1), tmp_path / "here")
    monkeypatch.chdir(folder)
    return folder


def laid_out(trained: Path, folder: Path) -> Path:
    for name, of in (("source", "source"), ("tuned", "target")):
        (folder / name).mkdir(parents=True)
        for file in FILES:
            shutil.copy(trained / of / "out" / file, folder / name)
    (folder / "adapter").mkdir()
    for file in ("adapter.safetensors", "adapter.json"):
        shutil.copy(trained / "target/out" / file, folder / "adapter")
    return folder


def refused(*arguments: str) -> int:
    """Return the exit code of a merge that leaves nothing behind."""
    before = sorted(Path().iterdir())
    code = main(["merge", *arguments])
    assert sorted(Path().iterdir()) == before
    return code


def test_the_published_model_comes_back_byte_for_byte(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["merge", "source", "adapter", "-o", "merged"]) == 0
    assert capsys.readouterr().out == "merged\n"
    assert sorted(path.name for path in (folder / "merged").iterdir()) == sorted(FILES)
    for file in FILES:
        assert (folder / "merged" / file).read_bytes() == (folder / "tuned" / file).read_bytes(), file
    assert sorted(path.name for path in folder.iterdir()) == ["adapter", "merged", "source", "tuned"]
    assert main(["sample", "merged", "-n", "4", "-o", "samples.png"]) == 0


@pytest.mark.parametrize("components", [10, 3])
def test_what_is_fitted_comes_with_the_adapter(
    components: int, train_from_source: Callable[..., Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The source model's, ten, is another; its weights are the parent's all the same."""
    trained = train_from_source("vae", Lora(rank=2), latent_components=components)
    folder = laid_out(trained, tmp_path / "here")
    monkeypatch.chdir(folder)
    assert main(["merge", "source", "adapter", "-o", "merged"]) == 0
    for file in FILES:
        assert (folder / "merged" / file).read_bytes() == (folder / "tuned" / file).read_bytes(), file


def test_other_weights_of_the_same_shapes_are_no_source_of_it(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    save_snapshot(folder / "other", small_family("dcgan", seed=9), images_seen=500, parent=None)
    digests = [load_snapshot(*(folder / name / file for file in FILES)).digest for name in ("source", "other")]
    assert refused("other", "adapter") == 5
    told = capsys.readouterr().err
    assert "adapter in adapter was not learnt on other" in told
    assert all(digest in told for digest in digests)


def test_another_family_is_no_source_of_it(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    save_snapshot(folder / "other", small_family("vae"), images_seen=500, parent=None)
    assert refused("other", "adapter") == 5
    assert "The adapter was not learnt on this model" in capsys.readouterr().err


def test_what_is_no_adapter_is_named_before_anything_is_read(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert refused("source", "source") == 2
    assert "ADAPTER is 'source', which has no adapter.safetensors and no adapter.json" in capsys.readouterr().err
    assert refused("source", "nowhere") == 2
    assert "ADAPTER is 'nowhere', which is no folder" in capsys.readouterr().err


def test_a_folder_with_files_is_not_written_into(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert refused("source", "adapter", "-o", "source") == 2
    assert "not an empty folder" in capsys.readouterr().err


def test_a_model_that_is_not_there_is_named(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert refused("nowhere", "adapter") == 6
    assert "'nowhere' is no folder" in capsys.readouterr().err


def test_a_description_of_other_weights_is_refused(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    file = folder / "adapter/adapter.json"
    description = json.loads(file.read_text())
    file.write_text(json.dumps({key: value for key, value in description.items() if key != "alpha"}))
    assert refused("source", "adapter") == 5
    assert "adapter.json does not say alpha" in capsys.readouterr().err
    file.write_text(json.dumps(description | {"adapted": description["adapted"] | {"more": {"transposed": False}}}))
    assert refused("source", "adapter") == 5
    assert "adapter.safetensors has no more.up, of which adapter.json speaks" in capsys.readouterr().err
