"""A step of `prefect deploy`: the form of the UI starts from the values of params.yaml."""

from typing import Any

from genxfer.config import load_params


def read_params(path: str = "params.yaml") -> dict[str, Any]:
    """Return {"params": the checked parameters of the file, as JSON}; raises ParameterError."""
    return {"params": load_params(path).model_dump(mode="json")}
