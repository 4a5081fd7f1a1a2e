"""What looks wrong with a domain: findings for the manifest and the log, after decoding and before training.

Works on packed pixels and on what is remembered of the raw images. It judges nothing and stops nothing: fewer than
`max_rejects` is the business of `pack.py`. Knows nothing of files.
"""

import hashlib
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

_EXAMPLES = 5
_BLOCK = 1024  # images looked at together, to bound memory


class Finding(NamedTuple):
    """One kind of oddity: how many images show it, and the names of the first few."""

    check: str
    images: int
    examples: list[str]


class Facts(NamedTuple):
    """What is remembered of one raw image."""

    width_px: int
    height_px: int
    is_colour: bool


def examine(
    names: Sequence[str], facts: Sequence[Facts], pixels: NDArray[np.uint8], rows: Mapping[str, Sequence[int]]
) -> list[Finding]:
    """Return what is odd about the images `pixels` [N C H W]; `rows` says which are in "train", which are held out."""
    channels, resolution_px = pixels.shape[1:3]
    twins = _twins(pixels)
    checks = {
        "exact duplicate of an earlier image": list(twins),
        "held-out image that is also a training image": _leaks(twins, rows),
        "nearly constant": _constant(pixels),
        "smaller than the resolution, enlarged": [
            i for i, f in enumerate(facts) if min(f.width_px, f.height_px) < resolution_px
        ],
        "colour packed as gray": [i for i, f in enumerate(facts) if channels == 1 and f.is_colour],
        "more than twice as long as wide, cropped": [
            i for i, f in enumerate(facts) if max(f.width_px, f.height_px) > 2 * min(f.width_px, f.height_px)
        ],
    }
    return [Finding(check, len(at), [names[i] for i in at[:_EXAMPLES]]) for check, at in checks.items() if at]


def statistics(pixels: NDArray[np.uint8]) -> dict[str, Any]:
    """Return mean and standard deviation per channel of uint8 images [N C H W], in units of [0, 255]."""
    total = np.zeros(pixels.shape[1])
    squares = np.zeros(pixels.shape[1])
    for _, block in _blocks(pixels):
        total += block.sum(axis=(0, 2, 3), dtype=np.float64)
        squares += np.square(block, dtype=np.float64).sum(axis=(0, 2, 3))
    count = max(pixels.size / pixels.shape[1], 1)  # there may be no validation images
    deviation = np.sqrt(np.maximum(squares / count - (total / count) ** 2, 0))
    return {"mean": np.round(total / count, 3).tolist(), "std": np.round(deviation, 3).tolist()}


def _twins(pixels: NDArray[np.uint8]) -> dict[int, int]:
    """Return {index: index of the first image with the same pixels} for every later copy."""
    first: dict[bytes, int] = {}
    found = {}
    for index, image in enumerate(pixels):
        earlier = first.setdefault(hashlib.sha256(image.tobytes()).digest(), index)
        if earlier != index:
            found[index] = earlier
    return found


def _leaks(twins: dict[int, int], rows: Mapping[str, Sequence[int]]) -> list[int]:
    trained_on = {twins.get(index, index) for index in rows["train"]}
    held_out = [index for part, chosen in rows.items() if part != "train" for index in chosen]
    return [index for index in sorted(held_out) if twins.get(index, index) in trained_on]


def _constant(pixels: NDArray[np.uint8]) -> list[int]:
    found: list[int] = []
    for start, block in _blocks(pixels):
        deviation = block.reshape(len(block), -1).std(axis=1, dtype=np.float32)
        found += (start + np.flatnonzero(deviation < 2)).tolist()
    return found


def _blocks(pixels: NDArray[np.uint8]) -> Iterator[tuple[int, NDArray[np.uint8]]]:
    for start in range(0, len(pixels), _BLOCK):
        yield start, pixels[start : start + _BLOCK]
