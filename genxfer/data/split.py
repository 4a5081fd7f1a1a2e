"""Which target images are trained on, which choose the best snapshot, and which only the reported numbers come from.

Between `raw.py`, which knows the names, and `pack.py` and `export.py`, which follow what is decided here. The parts lie
one after the other in an order that only seed and names decide: train, validation, test.

    |-- n_train --|-- n_validation --|------------- test -------------|

So 10 training images are among the 100; more training images come from the validation part before any comes from the
test part, which only ever loses its first ones; and a file more or less moves at most one image across each border.
Knows nothing of pixels.
"""

import hashlib
from collections.abc import Sequence

from genxfer.data.config import MIN_HELD_OUT, DatasetConfig, TargetFields
from genxfer.data.raw import count_images
from genxfer.errors import ParameterError

MOST_VALIDATION = 256  # `auto` takes no more: choosing among a run's snapshots gains little from more images


def split_order(names: Sequence[str], seed: int) -> list[int]:
    """Return a permutation of the indices of `names`, by the hash of (seed, name).

    A rejected or added file moves no two others past each other, and no library's generator can change it.
    """
    return sorted(range(len(names)), key=lambda i: (hashlib.sha256(f"{seed}:{names[i]}".encode()).digest(), i))


def validation_count(target: TargetFields, held_out: int) -> int:
    """Return how many of `held_out` images validate; the others test.

    `auto` is half of them, at most 256, and none where that would be fewer than 3. Raises ParameterError
    where fewer than 3 remain to test on, too few for KID.
    """
    validation = target.n_validation
    if validation is None:
        half = min(held_out // 2, MOST_VALIDATION)
        validation = half if half >= MIN_HELD_OUT else 0
    test = held_out - validation
    if held_out >= MIN_HELD_OUT > test:
        most = held_out - MIN_HELD_OUT
        allowed = f"to {most} or less" if most >= MIN_HELD_OUT else "to 0"
        raise ParameterError(
            f"dataset.target.n_validation is {validation}, of {held_out} held-out images, but at least {MIN_HELD_OUT} "
            f"must remain to test on. Set dataset.target.n_validation {allowed}, leave it at auto, or add images."
        )
    if test < MIN_HELD_OUT:
        where = "dataset.target.heldout names" if target.heldout is not None else "dataset.target.n_train leaves"
        raise ParameterError(
            f"{where} {held_out} images to hold out, but evaluation needs at least {MIN_HELD_OUT}. Add images"
            + (" there." if target.heldout is not None else ", or name others with dataset.target.heldout.")
        )
    return validation


def check_split(config: DatasetConfig) -> None:
    """Raise ParameterError where counting the raw images tells that a part cannot have its size; decodes none."""
    target = config.target
    available = count_images(target)
    if available is not None:
        check_n_train(target, available)
    held_out = available and available - target.n_train
    if target.heldout is not None:
        held_out = count_images(target.heldout)
    if held_out is not None:
        validation_count(target, held_out)


def check_n_train(target: TargetFields, available: int) -> None:
    """Raise ParameterError unless `n_train` of the target's `available` images leave enough to hold out."""
    most = available if target.heldout is not None else available - MIN_HELD_OUT
    if target.n_train <= most:
        return
    kind = target.kind  # type: ignore[attr-defined]  # every target is of some kind
    if target.n_train > available:
        problem = f"but the target ({kind}) has only {available} images"
    else:
        left = available - target.n_train
        problem = f"which leaves {left or 'none'} of the {available} images of the target ({kind}) to hold out"
    remedy = f"Set dataset.target.n_train to {most} or less, or add images." if most > 0 else "Add images."
    if target.heldout is None:
        remedy = (
            f"Evaluation needs at least {MIN_HELD_OUT} held-out images. {remedy} They can also come from elsewhere:"
        )
        remedy += " dataset.target.heldout."
    raise ParameterError(f"dataset.target.n_train is {target.n_train}, {problem}. {remedy}")
