from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from image_files import dataset

from genxfer.config import parse_params
from genxfer.data.config import FolderSource, PackageTarget
from genxfer.data.split import check_split, split_order, validation_count
from genxfer.errors import ParameterError


@given(st.integers(2, 60), st.integers(0, 5), st.data())
def test_a_split_is_a_permutation_that_no_other_file_disturbs(n: int, seed: int, data: st.DataObject) -> None:
    names = [f"{index}.png" for index in range(n)]
    order = split_order(names, seed)
    assert sorted(order) == list(range(n))
    gone = data.draw(st.integers(0, n - 1))
    fewer = names[:gone] + names[gone + 1 :]
    assert [fewer[i] for i in split_order(fewer, seed)] == [names[i] for i in order if i != gone]


def test_a_split_depends_on_its_seed() -> None:
    names = [f"{index}.png" for index in range(50)]
    assert split_order(names, 0) != split_order(names, 1)


@pytest.mark.parametrize(
    ("held_out", "asked", "expected"),
    [
        (1697, None, 256),
        (512, None, 256),
        (101, None, 50),
        (6, None, 3),
        (5, None, 0),
        (3, None, 0),
        (9, 0, 0),
        (9, 6, 6),
    ],
)
def test_auto_validates_on_half_and_never_takes_what_the_test_needs(
    held_out: int, asked: int | None, expected: int
) -> None:
    target = PackageTarget(kind="digits", n_train=100, n_validation=asked)
    assert validation_count(target, held_out) == expected


@pytest.mark.parametrize(
    ("held_out", "asked", "told"), [(9, 7, "to 6 or less"), (5, 3, "to 0"), (2, None, "leaves 2"), (0, 0, "leaves 0")]
)
def test_too_few_images_to_test_on_are_a_parameter_error(held_out: int, asked: int | None, told: str) -> None:
    target = PackageTarget(kind="digits", n_train=100, n_validation=asked)
    with pytest.raises(ParameterError, match=rf"{told}.*at least 3|at least 3.*{told}"):
        validation_count(target, held_out)


@pytest.mark.parametrize(("n_train", "told"), [(1797, "leaves none"), (1795, "leaves 2"), (2000, "only 1797 images")])
def test_more_target_images_than_exist_is_a_parameter_error(n_train: int, told: str) -> None:
    config = dataset(target={"kind": "digits", "n_train": n_train})
    with pytest.raises(ParameterError, match=rf"dataset.target.n_train is {n_train}.*{told}.*1794 or less"):
        check_split(config)


def test_every_image_may_be_trained_on_when_others_are_held_out(folder: Path) -> None:
    heldout = {"kind": "folder", "path": str(folder)}
    check_split(dataset(target={"kind": "digits", "n_train": 1797, "heldout": heldout}))
    with pytest.raises(ParameterError, match="1797 or less"):
        check_split(dataset(target={"kind": "digits", "n_train": 1798, "heldout": heldout}))


def test_the_other_images_too_must_be_enough(folder: Path) -> None:
    few = FolderSource(path=str(folder), glob="0[12].png").model_dump()
    with pytest.raises(ParameterError, match=r"dataset\.target\.heldout names 2 images.*at least 3"):
        check_split(dataset(target={"kind": "digits", "n_train": 9, "heldout": few}))


def test_validating_on_one_or_two_images_is_refused_with_what_is_allowed() -> None:
    with pytest.raises(ParameterError, match=r"dataset\.target\.n_validation is 2: .*at least 3 images; 0 is"):
        parse_params({"dataset": {"target": {"kind": "digits", "n_train": 100, "n_validation": 2}}})
    target = {"kind": "digits", "n_train": 100, "n_validation": "auto"}
    assert parse_params({"dataset": {"target": target}}).dataset.target.n_validation is None
