"""Single samples that the page of an evaluation shows beside real images, and what lies between two samples.

Between the features, which say which samples these are, and the page. A sample is drawn again by its place: the same
bits as in the whole set, without keeping the whole set. Knows nothing of HTML.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from genxfer.pipeline import Job

if TYPE_CHECKING:
    import numpy as np
    from torch import Tensor

    from genxfer.metrics.estimate import Pair
    from genxfer.models.family import Family

SHOWN_PAIRS = 8
ROWS, STEPS = 4, 8  # of the interpolations


@dataclass(frozen=True)
class Match:
    """A sample and the test image nearest to it in feature space, by their places in the two sets."""

    sample: int
    test: int


@dataclass(frozen=True)
class Closeups:
    """uint8: pairs of a sample and a real image [P 2 C H W], and interpolations [ROWS STEPS C H W]."""

    most: "np.ndarray"
    least: "np.ndarray"
    copies: "np.ndarray"  # the samples closest to training images
    interpolations: "np.ndarray"


def extremes(real: "Tensor", fake: "Tensor") -> tuple[list[Match], list[Match]]:
    """Return the samples nearest to any test image, and those farthest from all, by features [N D] and [M D].

    The nearest first, and the farthest first; of equals the first. Where there are few samples, none is in both.
    """
    import torch

    from genxfer.metrics.distances import nearest

    distance, place = nearest(fake, real)
    order = torch.sort(distance, stable=True).indices.tolist()
    n = min(SHOWN_PAIRS, len(order) // 2)
    most, least = order[:n], order[::-1][:n]
    return [Match(i, int(place[i])) for i in most], [Match(i, int(place[i])) for i in least]


def draw_closeups(
    job: Job, family: "Family", matches: tuple[list[Match], list[Match]], copies: Sequence["Pair"]
) -> Closeups:
    """Return the pictures of these samples of the transferred model, and its interpolations."""
    from genxfer.data.dataset import to_uint8
    from genxfer.models.family import interpolate

    most, least = ([(match.sample, match.test) for match in matched] for matched in matches)
    seed = job.params.evaluation().seed
    return Closeups(
        most=_pairs(job, family, most, "test"),
        least=_pairs(job, family, least, "test"),
        copies=_pairs(job, family, [(pair.sample, pair.train) for pair in copies], "train"),
        interpolations=to_uint8(interpolate(family, family.nets, ROWS, STEPS, seed)).numpy(),
    )


def _pairs(job: Job, family: "Family", places: Sequence[tuple[int, int]], array: str) -> "np.ndarray":
    """Return the samples and the images of the target's `array` at these places, each pair together [P 2 C H W]."""
    import numpy as np

    from genxfer.data.dataset import to_uint8
    from genxfer.models.family import sample_at

    images = np.load(job.inputs[f"dataset_target/{array}.npy"], mmap_mode="r")
    samples = sample_at(family, family.nets, [sample for sample, _ in places], job.params.evaluation().seed)
    real = images[[place for _, place in places]]
    return np.stack([to_uint8(samples).numpy(), real], axis=1)
