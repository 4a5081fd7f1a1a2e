"""The target's images to its parts: train, validation, test, and those that are in none.

Between decoding and writing in `pack.py`: `split.py` says how many and in which order, `duplicates.py` what shows the
same. No image of a part is a near-duplicate of one in another part:

- near-duplicates follow the first of them in the order of the split, so that they come to lie in one part. Not those of
  a package: few are, and its training images are laid out for people before any is decoded (`export.py`);
- what is still near an image of an earlier part is left out: the rest of a group that a border cuts, and all that other
  images to hold out share with the training images. It is named in the manifest. `n_train` stays what it is.

Knows nothing of files.
"""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from genxfer.data.config import DatasetConfig, PackageTarget
from genxfer.data.doctor import Finding, finding
from genxfer.data.duplicates import Described, describe, groups, twins
from genxfer.data.split import check_n_train, check_test, split_order, validation_count


class Parts(NamedTuple):
    """Which images each part has, in the order of their names, which are in none, and what is to be told of it."""

    rows: dict[str, list[int]]
    left_out: list[int]
    findings: list[Finding]


def divide(config: DatasetConfig, names: Sequence[str], available: int, pixels: NDArray[np.uint8]) -> Parts:
    """Return the parts of the images `pixels` [N C H W]: the target's first `available`, then others to hold out.

    Raises ParameterError where too few images are left to hold out.
    """
    target = config.target
    check_n_train(target, available)
    described = describe(pixels)
    by_name = split_order(names[:available], config.seed)
    order = by_name if isinstance(target, PackageTarget) else _together(by_name, described.of(range(available)))
    train, held_out = order[: target.n_train], order[target.n_train :]
    if target.heldout is not None:
        others = range(available, len(names))
        places = _together(split_order(names[available:], config.seed), described.of(others))
        held_out = [others[place] for place in places]

    held_out, of_training = _leave_out(described, train, held_out)
    n_validation = validation_count(target, len(held_out), len(of_training))
    validation, test = held_out[:n_validation], held_out[n_validation:]
    test, of_validation = _leave_out(described, validation, test)
    check_test(len(test), len(of_validation))

    told = {
        "training image only because a near-duplicate is one": sorted(set(train) - set(by_name[: target.n_train])),
        "left out: near-duplicate of a training image": of_training,
        "left out: near-duplicate of a validation image": of_validation,
    }
    rows = {part: sorted(chosen) for part, chosen in (("train", train), ("validation", validation), ("test", test))}
    findings = [finding(check, at, names) for check, at in told.items() if at]
    return Parts(rows, sorted(of_training + of_validation), findings)


def _together(order: Sequence[int], described: Described) -> list[int]:
    """Return `order` with each image right behind the first one of its group."""
    group = groups(described)
    first: dict[int, int] = {}
    for place, index in enumerate(order):
        first.setdefault(int(group[index]), place)
    return sorted(order, key=lambda index: first[int(group[index])])


def _leave_out(described: Described, earlier: list[int], later: list[int]) -> tuple[list[int], list[int]]:
    """Return `later` without the near-duplicates of `earlier`, and these, in order."""
    near = {later[twin.image] for twin in twins(described.of(earlier), described.of(later))}
    return [index for index in later if index not in near], sorted(near)
