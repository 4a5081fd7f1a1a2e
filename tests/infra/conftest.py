"""The image, the manifests, and parameters that train for seconds, for all tests here."""

from typing import Any

import pytest
import yaml

from tests.conftest import TINY, write_params
from tests.infra.containers import image as image  # fixtures
from tests.infra.manifests import folder as folder
from tests.infra.manifests import rendered as rendered


@pytest.fixture(scope="session")
def tiny(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """The parameters of params.yaml, but tiny."""
    path = tmp_path_factory.mktemp("params") / "params.yaml"
    write_params(path, TINY)
    found: dict[str, Any] = yaml.safe_load(path.read_text())
    return found
