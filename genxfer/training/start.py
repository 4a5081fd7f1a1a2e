"""How a run starts from a source model: what fits of it is taken over, and the result is checked before the first step.

Between a snapshot and the engine; a run that goes on from its own checkpoint has no use for it. Knows no stages.
"""

import copy
import logging
from dataclasses import dataclass
from typing import Any

from genxfer.models.config import family_config
from genxfer.models.family import Family
from genxfer.training.snapshot import Snapshot
from genxfer.training.source_check import SourceCheck, SourceCheckResult, check_source
from genxfer.transfer.config import MethodConfig
from genxfer.transfer.load import LoadReport, check_enough, check_fixed, check_whole, take_over

logger = logging.getLogger("genxfer.training")


@dataclass(frozen=True)
class StartReport:
    """What was taken over of the source model, and whether the loaded model draws as that one did."""

    load: LoadReport
    source_check: SourceCheckResult

    def facts(self) -> dict[str, Any]:
        """Return it as JSON: what load_report.json holds."""
        return {**self.load.facts(), "source_check": self.source_check.facts()}


def start_from(
    family: Family, source: Snapshot, method: MethodConfig, min_taken_over: float, last_step: int
) -> LoadReport:
    """Put what fits of `source` into `family`; raises TrainingError unless it is of the same family and enough.

    Enough is the share `min_taken_over` of the model's values, all of what still stays fixed in `last_step`, which
    begins after so many images, and where the method looks at the source model's samples, all that draws them.
    """
    report = take_over(family, source.weights, source.description, method.new_groups)
    check_enough(report, min_taken_over, family, source.weights, source.description)
    check_fixed(report, family, method, last_step)
    check_whole(report, family, method)
    return report


def checked_start(
    family: Family,
    source: Snapshot,
    check: SourceCheck | None,
    method: MethodConfig,
    min_taken_over: float,
    last_step: int,
) -> StartReport:
    """Do `start_from`, check the loaded model against the source model's own score, and say both in the log.

    Raises TrainingError when either fails.
    """
    load = start_from(family, source, method, min_taken_over, last_step)
    logger.info("taken over from the source model: %s", load)
    result = _source_check(family, load, source, check)
    logger.info("source check: %s", result)
    return StartReport(load, result)


def _source_check(family: Family, load: LoadReport, source: Snapshot, check: SourceCheck | None) -> SourceCheckResult:
    fitted = tuple(f"{net}." for net in family.fitted_nets)
    if not load.exact or any(name.startswith(fitted) for name in load.new):
        return SourceCheckResult(None, "this model differs from the source model, so their scores may differ too")
    if check is None:
        return SourceCheckResult(None, "no score of its own samples came with the source model")
    as_published = copy.copy(family)  # the same nets, drawn from as the source model was: in as many steps
    as_published.config = family_config(source.description["model"])
    return check_source(as_published, check)
