import os
import subprocess
import sys
from pathlib import Path

import pytest
import yaml
from dvc.repo import Repo
from image_files import png_bytes

from genxfer.data import versions
from genxfer.errors import DataError


def shell(*command: str) -> None:
    subprocess.run(command, check=True, capture_output=True)


@pytest.fixture
def repository(folder: Path, tmp_path: Path) -> Path:
    """A Git and DVC repository around `folder`, with a folder beside it as the default remote."""
    shell("git", "init", "-q")
    Repo.init(str(tmp_path)).close()
    (tmp_path / ".dvc" / "config").write_text(f"[core]\nremote = shelf\n['remote \"shelf\"']\nurl = {tmp_path}/shelf\n")
    return tmp_path


def md5_in_dvc_file(folder: Path) -> str:
    return yaml.safe_load(folder.with_name(f"{folder.name}.dvc").read_text())["outs"][0]["md5"]


def test_a_folder_is_added_and_pushed(repository: Path, folder: Path) -> None:
    md5 = versions.add(folder)
    assert md5 == md5_in_dvc_file(folder) == versions.folder_md5(folder)
    assert (repository / "shelf" / "files" / "md5" / md5[:2] / md5[2:]).is_file()
    assert len([path for path in (repository / "shelf").rglob("*") if path.is_file()]) == 12 + 1


def test_stdout_stays_free_for_results(repository: Path, folder: Path) -> None:
    program = "from pathlib import Path; from genxfer.data import versions; versions.add(Path('images'))"
    environment = os.environ | {"PYTHONPATH": str(Path(__file__).parents[2])}
    done = subprocess.run([sys.executable, "-c", program], env=environment, capture_output=True, text=True, check=True)
    assert done.stdout == ""
    assert folder.with_name("images.dvc").exists()


def test_a_changed_folder_is_another_version(repository: Path, folder: Path) -> None:
    first = versions.add(folder)
    (folder / "new.png").write_bytes(png_bytes(77))
    second = versions.add(folder)
    assert second != first
    assert second == md5_in_dvc_file(folder)


def test_what_dvcignore_hides_is_no_part_of_the_md5(repository: Path, folder: Path) -> None:
    (repository / ".dvcignore").write_text("# caches\n__pycache__\n*.tmp\n")
    plain = versions.folder_md5(folder)
    (folder / "x.tmp").touch()
    (folder / "__pycache__").mkdir()
    (folder / "__pycache__" / "y").touch()
    assert versions.folder_md5(folder) == plain == versions.add(folder)


def test_within_dvc_repro_the_md5_is_computed_and_nothing_added(
    repository: Path, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("DVC_STAGE", "dataset_target")
    inside = versions.add(folder)
    assert not folder.with_name("images.dvc").exists()
    monkeypatch.delenv("DVC_STAGE")
    assert versions.add(folder) == inside


def test_outside_a_repository_the_md5_is_computed(folder: Path) -> None:
    assert versions.add(folder) == versions.folder_md5(folder)
    assert not folder.with_name("images.dvc").exists()


def test_a_link_whose_file_is_gone_is_named(folder: Path) -> None:
    (folder / ".gone").symlink_to("nowhere.png")
    with pytest.raises(DataError, match=r"images/\.gone cannot be read.*No such file"):
        versions.folder_md5(folder)


def test_a_lock_held_by_another_is_warned_of(repository: Path, folder: Path, caplog: pytest.LogCaptureFixture) -> None:
    with Repo(str(repository)) as holder, holder.lock:
        md5 = versions.add(folder)
    assert "another DVC process" in caplog.text
    assert md5 == versions.folder_md5(folder)


def test_images_that_git_tracks_are_left_to_git(
    repository: Path, folder: Path, caplog: pytest.LogCaptureFixture
) -> None:
    shell("git", "add", str(folder))
    assert versions.add(folder) == versions.folder_md5(folder)
    assert "tracked by Git" in caplog.text


def test_a_remote_out_of_reach_is_an_error(repository: Path, folder: Path) -> None:
    (repository / "file").touch()
    config = repository / ".dvc" / "config"
    config.write_text(config.read_text().replace("/shelf\n", "/file/below\n"))
    with pytest.raises(DataError, match=r"push.*'shelf'"):
        versions.add(folder)
