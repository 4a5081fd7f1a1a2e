"""The section `evaluate`: wrong values are answered with the known ones, and reading it needs no torch."""

import subprocess
import sys

import pytest

from genxfer.errors import ParameterError
from genxfer.metrics import EXTRACTORS, METRICS, load_extractor, load_metric
from genxfer.metrics.config import EvaluateConfig


def test_the_defaults_measure_everything_on_lite0() -> None:
    config = EvaluateConfig()
    assert (config.extractor, config.metrics) == ("lite0", tuple(METRICS))


@pytest.mark.parametrize(
    ("values", "key", "hint"),
    [
        ({"extractor": "lite"}, "evaluate.extractor", "Did you mean 'lite0'?"),
        ({"metrics": ("kid", "fidd")}, "evaluate.metrics", "Did you mean 'fid'?"),
        ({"metrics": ("fid",)}, "evaluate.metrics", "must name each metric once and contain 'kid'"),
        ({"metrics": ("kid", "kid")}, "evaluate.metrics", "must name each metric once and contain 'kid'"),
    ],
)
def test_a_wrong_name_is_answered_with_the_known_ones(values: dict, key: str, hint: str) -> None:
    with pytest.raises(ParameterError) as error:
        EvaluateConfig(**values)
    message = str(error.value)
    known = EXTRACTORS if key.endswith("extractor") else METRICS
    assert message.startswith(key)
    assert hint in message
    assert all(name in message for name in known)


def test_weights_for_an_extractor_that_has_its_own_are_refused() -> None:
    with pytest.raises(ParameterError, match=r"set evaluate\.extractor to one of: inception, dinov2"):
        EvaluateConfig(extractor_weights="some.pth")


def test_loading_an_unknown_name_is_answered_with_the_known_ones() -> None:
    with pytest.raises(ParameterError, match="known names: kid, fid"):
        load_metric("is")
    with pytest.raises(ParameterError, match="known names: lite0, pixels, inception, dinov2"):
        load_extractor("vgg")


def test_a_form_made_from_the_config_offers_the_known_names() -> None:
    properties = EvaluateConfig.model_json_schema()["properties"]
    assert properties["extractor"]["enum"] == list(EXTRACTORS)
    assert properties["metrics"]["items"]["enum"] == list(METRICS)


def test_reading_the_config_imports_no_torch() -> None:
    program = "import sys, genxfer.metrics.config as c; c.EvaluateConfig(); sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", program], check=False).returncode == 0
