"""The script that MLflow runs when a registered version is loaded (models from code): no pickle anywhere.

Its neighbours in the model are the two snapshot files and the few parts of genxfer that `packaging.py` copies. torch is
imported when the weights are, so that registering a model, which runs this script once, does not pay for it.
"""

import base64
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd  # type: ignore[import-untyped]
from mlflow.exceptions import MlflowException
from mlflow.models import set_model
from mlflow.pyfunc import PythonModel, PythonModelContext

from genxfer.errors import GenxferError, ParameterError

if TYPE_CHECKING:
    from genxfer.registry.sampler import SnapshotSampler

DEFAULT_SEED = 0
MAX_IMAGES = 1024  # of one request: an answer in JSON is built in memory, and a server gives a request a minute
FORMATS = ("array", "png")


class ServedModel(PythonModel):
    """Answers {"n": 16, "seed": 7}, or {"latent": [[0.3, ...], ...]}, with images; docs/serving.md says all of it."""

    sampler: "SnapshotSampler"

    def load_context(self, context: PythonModelContext) -> None:
        """Load the weights, once per process."""
        from genxfer.registry.sampler import SnapshotSampler

        self.sampler = SnapshotSampler(Path(context.artifacts["weights"]), Path(context.artifacts["description"]))

    def predict(
        self, context: PythonModelContext, model_input: pd.DataFrame, params: dict[str, Any] | None = None
    ) -> np.ndarray | list[str]:
        """Return the images of every row, one request after the other: uint8 [N H W C], or PNG files in base64.

        A row has `n` and maybe `seed`, or `latent` [n latent_dim]; `params` are `temperature` and `format`.
        """
        try:
            return self._answer([_given(row) for row in model_input.to_dict("records")], params or {})
        except GenxferError as error:  # as MLflow's own kind, the server answers 400 with the message
            raise MlflowException.invalid_parameter_value(str(error)) from None

    def _answer(self, rows: list[dict[str, Any]], params: dict[str, Any]) -> np.ndarray | list[str]:
        temperature, form = params.get("temperature", 1.0), params.get("format", "array")
        if form not in FORMATS:
            raise ParameterError(f"format is {form!r}; allowed is {' or '.join(map(repr, FORMATS))}")
        _check(rows)
        images = np.concatenate([self._images(row, temperature) for row in rows])
        return [_png(image) for image in images] if form == "png" else images

    def _images(self, row: dict[str, Any], temperature: float) -> np.ndarray:
        if "latent" in row:
            return self.sampler.images_of(row["latent"], temperature)
        return self.sampler.images(int(row["n"]), int(row.get("seed", DEFAULT_SEED)), temperature)


def _given(row: dict[str, Any]) -> dict[str, Any]:
    """Return what a row of a table really gives: the optional columns of other rows are empty in this one."""
    return {name: value for name, value in row.items() if not (pd.api.types.is_scalar(value) and pd.isna(value))}


def _check(rows: list[dict[str, Any]]) -> None:
    """Raise ParameterError when it is not clear what is asked for, or when that is too much."""
    for row in rows or [{}]:
        if ("n" in row) == ("latent" in row) or {"latent", "seed"} <= row.keys():
            given = ", ".join(row) or "nothing"
            raise ParameterError(f"given is {given}; a request is n, the number of images, and maybe seed; or latent")
    n = sum(len(row["latent"]) if "latent" in row else max(0, int(row["n"])) for row in rows)
    if n > MAX_IMAGES:
        raise ParameterError(f"n is {n}; one request draws at most {MAX_IMAGES} images: ask several times, by seed")


def _png(image: np.ndarray) -> str:
    from genxfer.report.grid import encode_png

    return base64.b64encode(encode_png(image)).decode()


set_model(ServedModel())
