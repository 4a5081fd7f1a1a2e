"""Load one registered version and draw from it, by the code that was registered: a script for a process of its own.

    python -I draw_check.py FOLDER N OUTPUT.npy

FOLDER is a version's files. Prints one JSON object; whatever goes wrong is an exception. It imports nothing of genxfer:
that name must mean the version's own code here. What the answer is worth is decided by who asked (`loading.py`).
"""

import json
import sys
from pathlib import Path
from typing import Any


def main(folder: Path, n: int, output: Path) -> dict[str, Any]:
    """Return what was drawn, as facts; the images [N H W C] go to `output`."""
    import mlflow.pyfunc
    import numpy as np
    from safetensors.torch import load_file

    weights = load_file(folder / "artifacts" / "snapshot.safetensors")
    model = mlflow.pyfunc.load_model(folder.as_posix())
    images = np.asarray(model.predict({"n": n, "seed": 0}))
    np.save(output, images, allow_pickle=False)
    return {
        "shape": list(images.shape),
        "dtype": str(images.dtype),
        "flat": bool(images.size == 0 or images.min() == images.max()),
        "not_finite": [name for name, values in weights.items() if not bool(values.isfinite().all())],
        "code": sys.modules["genxfer"].__file__,
    }


if __name__ == "__main__":
    print(json.dumps(main(Path(sys.argv[1]), int(sys.argv[2]), Path(sys.argv[3]))))
