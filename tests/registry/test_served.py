import hashlib
import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from genxfer.models.config import FAMILIES, FamilyConfig
from genxfer.registry.config import ModelPackage, RegisterConfig
from genxfer.registry.models import register
from genxfer.registry.pull import load_images

if TYPE_CHECKING:
    from mlflow import MlflowClient

SMALL: dict[str, dict[str, int]] = {"flow": {"width": 8, "sample_steps": 2}}

# What somebody does who has mlflow and torch, but never installed genxfer; refuses every module of this checkout.
STRANGER = """
import hashlib, json, os, sys
checkout, uris = sys.argv[1], json.loads(sys.argv[2])
sys.path = [entry for entry in sys.path if os.path.realpath(entry) != checkout]
sys.meta_path = [finder for finder in sys.meta_path if "editable" not in repr(finder).lower()]
try:
    import genxfer
    raise SystemExit("genxfer must not be importable before a model brings it along")
except ImportError:
    pass
import mlflow, numpy, pandas
answers = {}
for uri in uris:
    model = mlflow.pyfunc.load_model(uri)
    images = model.predict({"n": 16, "seed": 7})
    frame = pandas.DataFrame({"n": [3, 2], "seed": [7, 8]})
    answers[uri] = {
        "shape": images.shape,
        "dtype": str(images.dtype),
        "digest": hashlib.sha256(images.tobytes()).hexdigest(),
        "alike": bool((model.predict({"n": 33, "seed": 7})[:16] == images).all()),
        "frame": bool((model.predict(frame)[:3] == images[:3]).all()) and len(model.predict(frame)) == 5,
        "unseeded": len(model.predict({"n": 2})),
    }
brought = [m.__file__ for name, m in sys.modules.items() if name.split(".")[0] == "genxfer"]
assert not [file for file in brought if file.startswith(checkout)], brought
print(json.dumps(answers))
"""


def small(family: str) -> FamilyConfig:
    return FAMILIES[family].model_validate({"width": 8, **SMALL.get(family, {})})


@pytest.mark.slow
def test_a_stranger_without_genxfer_draws_the_same_images_with_pickle_refused(
    client: "MlflowClient", store_uri: str, tmp_path: Path, make_package: Callable[..., ModelPackage]
) -> None:
    checkout = Path(__file__).parents[2]
    uris = {}
    for family in FAMILIES:
        package = make_package(tmp_path / family, f"fp-{family}", small(family))
        register(package, RegisterConfig(name=f"served-{family}"))
        uris[family] = f"models:/served-{family}@challenger"
    environment = {
        **{name: value for name, value in os.environ.items() if not name.startswith(("PYTHON", "MLFLOW"))},
        "MLFLOW_ALLOW_PICKLE_DESERIALIZATION": "false",
        "MLFLOW_DISABLE_TELEMETRY": "true",
        "MLFLOW_TRACKING_URI": store_uri,
    }
    done = subprocess.run(
        [sys.executable, "-I", "-c", STRANGER, str(checkout), json.dumps(list(uris.values()))],
        cwd=tmp_path,
        env=environment,
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr
    answers = json.loads(done.stdout.splitlines()[-1])
    for family, uri in uris.items():
        here = load_images(uri, 16, 7)
        assert answers[uri] == {
            "shape": list(here.shape),
            "dtype": "uint8",
            "digest": hashlib.sha256(here.tobytes()).hexdigest(),
            "alike": True,
            "frame": True,
            "unseeded": 2,
        }, family
