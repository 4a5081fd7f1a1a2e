"""The made-up evaluation as a fixture."""

import pytest

from genxfer.report.evaluation import EvaluationReport
from tests.report.reports import made_up_report


@pytest.fixture
def report() -> EvaluationReport:
    return made_up_report()
