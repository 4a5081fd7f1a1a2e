"""What looks wrong with a domain: findings for the manifest and the log, after decoding and before training.

Works on packed pixels and on what is remembered of the raw images. It judges nothing and stops nothing: fewer than
`max_rejects` is the business of `pack.py`. Knows nothing of files.
"""

import hashlib
from collections.abc import Iterator, Sequence
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


def finding(check: str, at: Sequence[int], names: Sequence[str]) -> Finding:
    """Return that the images `at` show what `check` says."""
    return Finding(check, len(at), [names[index] for index in at[:_EXAMPLES]])


def examine(names: Sequence[str], facts: Sequence[Facts], pixels: NDArray[np.uint8]) -> list[Finding]:
    """Return what is odd about the images `pixels` [N C H W]."""
    channels, resolution_px = pixels.shape[1:3]
    checks = {
        "exact duplicate of an earlier image": _copies(pixels),
        "nearly constant": _constant(pixels),
        "smaller than the resolution, enlarged": [
            i for i, f in enumerate(facts) if min(f.width_px, f.height_px) < resolution_px
        ],
        "colour packed as gray": [i for i, f in enumerate(facts) if channels == 1 and f.is_colour],
        "more than twice as long as wide, cropped": [
            i for i, f in enumerate(facts) if max(f.width_px, f.height_px) > 2 * min(f.width_px, f.height_px)
        ],
    }
    return [finding(check, at, names) for check, at in checks.items() if at]


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


def _copies(pixels: NDArray[np.uint8]) -> list[int]:
    """Return every image that has the pixels of an earlier one."""
    seen: set[bytes] = set()
    found = []
    for index, image in enumerate(pixels):
        digest = hashlib.sha256(image.tobytes()).digest()
        if digest in seen:
            found.append(index)
        seen.add(digest)
    return found


def _constant(pixels: NDArray[np.uint8]) -> list[int]:
    found: list[int] = []
    for start, block in _blocks(pixels):
        deviation = block.reshape(len(block), -1).std(axis=1, dtype=np.float32)
        found += (start + np.flatnonzero(deviation < 2)).tolist()
    return found


def _blocks(pixels: NDArray[np.uint8]) -> Iterator[tuple[int, NDArray[np.uint8]]]:
    for start in range(0, len(pixels), _BLOCK):
        yield start, pixels[start : start + _BLOCK]
