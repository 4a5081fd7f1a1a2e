"""What this user may not read or write is named in one sentence, with the exit code of what was asked for."""

from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

import genxfer.data.sources  # noqa: F401  before: the installation may be root's alone
from genxfer.config import Params, load_params
from genxfer.data.config import ArchiveSource, DatasetConfig, FolderSource, PackageTarget
from genxfer.data.export import export_target_pngs, png
from genxfer.data.raw import count_images, package_pixels, raw_digest
from genxfer.errors import DataError, GenxferError, ParameterError, RegistryError
from genxfer.registry.pull import load_weights
from genxfer.stages.image_metrics import Comparison, compare
from genxfer.stages.origin import pinned
from tests.conftest import REPOSITORY
from tests.somebody_else import folder_for_all, unprivileged

Act = Callable[[Path], object]


def starting_from(where: Path) -> Params:
    return load_params(REPOSITORY / "params.yaml", [f"finetune.init_from={where}"])


def laid_out(where: Path) -> None:
    export_target_pngs(DatasetConfig(target=PackageTarget(kind="digits", n_train=20, path=str(where))))


@pytest.fixture
def folder() -> Iterator[Path]:
    """A folder with a readable part, and one that may not even be entered."""
    with folder_for_all() as folder:
        for name in ("open", "closed/inside"):
            (folder / name).mkdir(parents=True)
            (folder / name / "one.png").write_bytes(png(package_pixels("digits")[0]))
        (folder / "closed").chmod(0o700)
        if (folder / "closed").stat().st_uid != 0:
            (folder / "closed").chmod(0)
        yield folder


@pytest.mark.parametrize(
    ("act", "kind", "place"),
    [
        (lambda folder: count_images(FolderSource(path=str(folder))), DataError, "closed"),
        (lambda folder: raw_digest(FolderSource(path=str(folder))), DataError, "closed"),
        (lambda folder: count_images(FolderSource(path=str(folder / "closed" / "inside"))), DataError, "closed/inside"),
        (lambda folder: raw_digest(ArchiveSource(path=str(folder / "closed" / "a.zip"))), DataError, "closed/a.zip"),
        (lambda folder: compare(Comparison(str(folder / "closed" / "inside"), "x")), DataError, "closed/inside"),
        (lambda folder: pinned(starting_from(folder / "closed" / "inside")), ParameterError, "closed/inside"),
        (lambda folder: load_weights(str(folder / "closed" / "inside")), RegistryError, "closed/inside"),
        (lambda folder: laid_out(folder / "open" / "target"), DataError, "open/target"),
        (lambda folder: laid_out(folder / "closed"), DataError, "closed"),
    ],
)
def test_a_missing_permission_is_one_sentence_with_the_path(
    act: Act, kind: type[GenxferError], place: str, folder: Path
) -> None:
    (folder / "open").chmod(0o555)
    with unprivileged(), pytest.raises(kind, match=rf"no permission for {folder / place}"):
        act(folder)
