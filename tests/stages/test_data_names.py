"""What images are called on cards, pages and in MLflow: by what people know them by, and test images by their own."""

from typing import Any

import pytest

from genxfer.artifacts.record import ObjectRef, Record
from genxfer.config import Params
from genxfer.stages.registration import dataset_revisions

FOLDER = {"kind": "folder", "path": "data/cats"}
ARCHIVE = {"kind": "archive", "path": "data/cats.zip"}
DIGITS = {"kind": "digits"}
CIFAR = {"kind": "torchvision", "name": "CIFAR10"}


def locations(source: dict[str, Any], target: dict[str, Any]) -> dict[str, str]:
    params = Params.model_validate({"dataset": {"source": source, "target": target | {"n_train": 10}}})
    refs = {f"{array}.npy": ObjectRef("a" * 64, 1) for array in ("train", "test")}
    facts = {"train_images": 10, "test_images": 20}
    upstream = {
        stage: Record(stage, "f", {}, refs, 1.0, "", {}, facts) for stage in ("dataset_source", "dataset_target")
    }
    return {one.domain: one.location for one in dataset_revisions(params, upstream)}


@pytest.mark.parametrize(
    ("images", "called"),
    [
        (FOLDER, "data/cats"),
        (ARCHIVE, "data/cats.zip"),
        ({"kind": "mnist"}, "MNIST"),
        (DIGITS, "UCI digits"),
        (CIFAR, "torchvision CIFAR10"),
    ],
)
def test_images_are_called_by_what_people_know_them_by(images: dict[str, Any], called: str) -> None:
    assert locations(images, images) == {"source": called, "target": called, "test": called}


def test_test_images_of_another_source_are_not_called_by_the_target_folder() -> None:
    found = locations({"kind": "mnist"}, FOLDER | {"heldout": CIFAR})
    assert found == {"source": "MNIST", "target": "data/cats", "test": "torchvision CIFAR10"}
