"""The image, the manifests, and parameters that train for seconds, for all tests here."""

from typing import Any

import pytest

from flows.deployment import read_params
from tests.conftest import TINY, write_params
from tests.infra.containers import image as image  # fixtures
from tests.infra.manifests import folder as folder
from tests.infra.manifests import rendered as rendered


@pytest.fixture(scope="session")
def tiny(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """The parameters of params.yaml, but tiny, as the form of a deployment holds them."""
    path = tmp_path_factory.mktemp("params") / "params.yaml"
    write_params(path, TINY)
    found: dict[str, Any] = read_params(str(path))["params"]
    return found
