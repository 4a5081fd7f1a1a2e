"""Several metrics of one set of samples: what the pipeline and the verb `metrics` both call.

Knows the metrics by name only, and nothing of extractors or images.
"""

import logging
from collections.abc import Iterable

from genxfer.metrics import load_metric
from genxfer.metrics.estimate import Measurement
from genxfer.metrics.sets import FeatureSets, TooFewImagesError

logger = logging.getLogger("genxfer.metrics")


def measure(names: Iterable[str], sets: FeatureSets, *, required: Iterable[str]) -> Measurement:
    """Return what the metrics `names` say of `sets`, notes logged as warnings.

    A metric that there are too few images for is left out with a note, unless it is `required`: then it raises
    TooFewImagesError.
    """
    required = set(required)
    parts = []
    for name in names:
        try:
            parts.append(load_metric(name)(sets))
        except TooFewImagesError as error:
            if name in required:
                raise
            parts.append(Measurement({}, notes=(f"{name} was left out: {error}",)))
    together = _together(parts)
    for note in together.notes:
        logger.warning("%s", note)
    return together


def _together(parts: list[Measurement]) -> Measurement:
    return Measurement(
        {name: value for part in parts for name, value in part.numbers.items()},
        {name: value for part in parts for name, value in part.yardsticks.items()},
        {name: value for part in parts for name, value in part.facts.items()},
        tuple(note for part in parts for note in part.notes),
        tuple(pair for part in parts for pair in part.pairs),
    )
