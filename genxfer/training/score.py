"""What a run scores its own samples with: KID of one kind of features, for the source check and for validation.

For decisions within a run; reported numbers are the stage evaluate's. Knows nothing of runs.
"""

from torch import Tensor

from genxfer.metrics import load_metric
from genxfer.metrics.estimate import Estimate
from genxfer.metrics.sets import FeatureSets
from genxfer.training.config import SCORE_METRIC


def score(real: Tensor, fake: Tensor) -> Estimate:
    """Return the KID of features `fake` [M D] against `real` [N D]."""
    return load_metric(SCORE_METRIC)(FeatureSets(real, fake)).numbers[SCORE_METRIC]
