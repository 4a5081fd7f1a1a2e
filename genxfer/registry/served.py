"""The script that MLflow runs when a registered version is loaded (models from code): no pickle anywhere.

Its neighbours in the model are the two snapshot files and the few parts of genxfer that `models.py` copies. torch is
imported when the weights are, so that registering a model, which runs this script once, does not pay for it.
"""

from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd  # type: ignore[import-untyped]
from mlflow.models import set_model
from mlflow.pyfunc import PythonModel, PythonModelContext

if TYPE_CHECKING:
    from genxfer.registry.sampler import SnapshotSampler

DEFAULT_SEED = 0


class ServedModel(PythonModel):
    """Answers {"n": 16, "seed": 7} with uint8 images [N H W C]."""

    sampler: "SnapshotSampler"

    def load_context(self, context: PythonModelContext) -> None:
        """Load the weights, once per process."""
        from genxfer.registry.sampler import SnapshotSampler

        self.sampler = SnapshotSampler(Path(context.artifacts["weights"]), Path(context.artifacts["description"]))

    def predict(
        self, context: PythonModelContext, model_input: pd.DataFrame, params: dict[str, Any] | None = None
    ) -> np.ndarray:
        """Return the images of every row (`n`, optional `seed`), one request after the other, as uint8 [N H W C]."""
        requests = model_input.reindex(columns=["n", "seed"]).fillna({"seed": DEFAULT_SEED})
        return np.concatenate([self.sampler.images(int(n), int(seed)) for n, seed in requests.itertuples(index=False)])


set_model(ServedModel())
