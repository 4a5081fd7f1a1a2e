"""A registered version as others meet it: with mlflow, torch and safetensors, and without genxfer."""

import ast
import base64
import hashlib
import io
import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
from PIL import Image

from genxfer.models.config import FAMILIES, FamilyConfig
from genxfer.registry.config import ModelPackage, RegisterConfig
from genxfer.registry.models import register
from genxfer.registry.pull import download, load_images, load_sampler
from tests.registry.fresh_environment import make_environment

if TYPE_CHECKING:
    from mlflow import MlflowClient
    from mlflow.pyfunc import PyFuncModel

SMALL: dict[str, dict[str, int]] = {"flow": {"width": 8, "sample_steps": 2}}

# What somebody does who has mlflow, torch and safetensors, and has never heard of genxfer.
STRANGER = """
import base64, hashlib, json, sys
for absent in ("genxfer", "timm", "torchvision", "prefect", "dvc"):
    try:
        __import__(absent)
        raise SystemExit(f"{absent} must not be importable before a model brings it along")
    except ImportError:
        pass
import mlflow, numpy, pandas
digest = lambda images: hashlib.sha256(images.tobytes()).hexdigest()
answers = {}
for uri, noise_shape in json.loads(sys.argv[1]).items():
    model = mlflow.pyfunc.load_model(uri)
    images = model.predict({"n": 16, "seed": 7})
    frame = pandas.DataFrame({"n": [3, 2], "seed": [7, 8]})
    latent = numpy.linspace(-1, 1, 2 * numpy.prod(noise_shape)).reshape(2, *noise_shape)
    png = model.predict({"n": 2, "seed": 7}, params={"format": "png"})
    answers[uri] = {
        "shape": images.shape,
        "dtype": str(images.dtype),
        "digest": digest(images),
        "alike": bool((model.predict({"n": 33, "seed": 7})[:16] == images).all()),
        "frame": bool((model.predict(frame)[:3] == images[:3]).all()) and len(model.predict(frame)) == 5,
        "unseeded": len(model.predict({"n": 2})),
        "cooler": digest(model.predict({"n": 4, "seed": 7}, params={"temperature": 0.5})),
        "latent": digest(model.predict({"latent": latent.reshape(2, -1).tolist()})),
        "nested": digest(model.predict({"latent": latent.tolist()})),
        "png": [base64.b64decode(file)[:8].hex() for file in png],
    }
brought = {m.__file__ for name, m in sys.modules.items() if name.split(".")[0] == "genxfer" and m.__file__}
assert brought and not [file for file in brought if file.startswith(sys.argv[2])], brought
print(json.dumps(answers))
"""


def small(family: str) -> FamilyConfig:
    return FAMILIES[family].model_validate({"width": 8, **SMALL.get(family, {})})


def digest(images: np.ndarray) -> str:
    return hashlib.sha256(images.tobytes()).hexdigest()


@pytest.mark.slow
def test_a_stranger_with_mlflow_torch_and_safetensors_draws_the_same_images_with_pickle_refused(
    client: "MlflowClient", store_uri: str, tmp_path: Path, make_package: Callable[..., ModelPackage]
) -> None:
    uris = {}
    for family in FAMILIES:
        package = make_package(tmp_path / family, f"fp-{family}", small(family))
        register(package, RegisterConfig(name=f"served-{family}"))
        uris[family] = f"models:/served-{family}@challenger"
    samplers = {family: load_sampler(uri) for family, uri in uris.items()}
    environment = {
        **{name: value for name, value in os.environ.items() if not name.startswith(("PYTHON", "MLFLOW"))},
        "MLFLOW_ALLOW_PICKLE_DESERIALIZATION": "false",
        "MLFLOW_DISABLE_TELEMETRY": "true",
        "MLFLOW_TRACKING_URI": store_uri,
    }
    noise_shapes = json.dumps({uri: samplers[family].noise_shape for family, uri in uris.items()})
    python = make_environment(tmp_path / "fresh", "mlflow", "torch", "safetensors")
    done = subprocess.run(
        [str(python), "-I", "-c", STRANGER, noise_shapes, str(Path(__file__).parents[2])],
        cwd=tmp_path,
        env=environment,
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr
    answers = json.loads(done.stdout.splitlines()[-1])
    for family, uri in uris.items():
        sampler = samplers[family]
        here = load_images(uri, 16, 7)
        latent = np.linspace(-1, 1, 2 * sampler.latent_dim).reshape(2, -1)
        assert answers[uri] == {
            "shape": list(here.shape),
            "dtype": "uint8",
            "digest": digest(here),
            "alike": True,
            "frame": True,
            "unseeded": 2,
            "cooler": digest(sampler.images(4, 7, temperature=0.5)),
            "latent": digest(sampler.images_of(latent)),
            "nested": digest(sampler.images_of(latent)),
            "png": [b"\x89PNG\r\n\x1a\n".hex()] * 2,
        }, family


@pytest.fixture(scope="module")
def served(
    store_uri: str, tmp_path_factory: pytest.TempPathFactory, make_package: Callable[..., ModelPackage]
) -> "PyFuncModel":
    """One registered version, as MLflow loads it."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("MLFLOW_TRACKING_URI", store_uri)
        register(make_package(tmp_path_factory.mktemp("package"), "fp-asked"), RegisterConfig(name="asked"))
        import mlflow.pyfunc

        return mlflow.pyfunc.load_model("models:/asked@challenger")


def test_the_signature_says_what_can_be_asked_and_what_comes_back(served: "PyFuncModel") -> None:
    signature = served.metadata.signature
    assert {column["name"]: column["required"] for column in signature.inputs.to_dict()} == {
        "n": False,
        "seed": False,
        "latent": False,
    }
    assert [(param.name, param.dtype.name, param.default) for param in signature.params] == [
        ("temperature", "double", 1.0),
        ("format", "string", "array"),
    ]
    images = served.predict({"n": 2})
    (answered,) = signature.outputs.inputs
    assert (answered.type, answered.shape[1:]) == (images.dtype, images.shape[1:])


def test_png_files_hold_the_same_pixels_as_arrays(served: "PyFuncModel") -> None:
    images = served.predict({"n": 3, "seed": 5})
    files = served.predict({"n": 3, "seed": 5}, params={"format": "png"})
    decoded = [np.asarray(Image.open(io.BytesIO(base64.b64decode(file)))) for file in files]
    assert np.array_equal(np.stack(decoded)[..., None], images)


def test_several_rows_of_latents_are_answered_in_order(served: "PyFuncModel") -> None:
    latent = np.zeros((2, 64))
    rows = [{"latent": latent.tolist()}, {"latent": [[0] * 64]}]  # whole numbers too
    images = served.predict(rows)
    assert len(images) == 3
    assert (images == images[0]).all()
    assert np.array_equal(served.predict({"latent": latent}), images[:2])
    assert np.array_equal(served.predict({"n": 1}, params={"temperature": 0.0}), images[:1])


@pytest.mark.parametrize(
    ("asked", "params", "said"),
    [
        ({"n": 0}, {}, "n is 0; it is the number of images to draw, at least 1"),
        ({"n": 2000}, {}, "n is 2000; one request draws at most 1024 images"),
        ([{"n": 1000, "seed": 1}, {"n": 1000, "seed": 2}], {}, "n is 2000; one request draws at most 1024"),
        ({"latent": np.zeros((1025, 64))}, {}, "n is 1025; one request draws at most 1024"),
        ({"n": 1, "seed": -1}, {}, "seed is -1; allowed is 0 to 4294967295"),
        ({"n": 1}, {"temperature": -0.5}, "temperature is -0.5; allowed is 0 to 10"),
        ({"n": 1}, {"temperature": float("nan")}, "temperature is nan; allowed is 0 to 10"),
        ({"n": 1}, {"format": "jpg"}, "format is 'jpg'; allowed is 'array' or 'png'"),
        ({"latent": [[0.0] * 63]}, {}, r"latent has the shape \[1, 63\]; this model, a dcgan, takes 64 numbers"),
        ({"latent": [0.0] * 64}, {}, r"latent has the shape \[64\].*: \[n, 64\]"),
        ({"latent": [[0.0] * 64, [0.0]]}, {}, "latent is no array of numbers with rows of one length"),
        ({"latent": [[float("inf")] * 64]}, {}, "latent holds values that are not finite"),
        ({"n": 1, "latent": [[0.0] * 64]}, {}, "given is n, latent; a request is n.* or latent"),
        ({"seed": 1, "latent": [[0.0] * 64]}, {}, "given is seed, latent"),
        ({"seed": 1}, {}, "given is seed; a request is n"),
        ({}, {}, "given is nothing"),
        ({"n": "many"}, {}, "column n. Can not safely convert"),
        ({"n": 1}, {"temperature": "hot"}, "temperature.*double.*hot"),
    ],
)
def test_a_wrong_request_is_a_bad_request_that_says_what_is_allowed(
    served: "PyFuncModel", asked: Any, params: dict[str, Any], said: str
) -> None:
    from mlflow.exceptions import MlflowException

    with pytest.raises(MlflowException, match=said) as caught:
        served.predict(asked, params=params)
    assert caught.value.get_http_status_code() == 400


def test_what_travels_imports_only_itself_and_what_the_model_requires(
    client: "MlflowClient", tmp_path: Path, served: "PyFuncModel"
) -> None:
    model = download("models:/asked@challenger", tmp_path).parent
    code = model / "code"
    brought = {".".join(file.relative_to(code).with_suffix("").parts) for file in code.rglob("*.py")}
    brought |= {name.removesuffix(".__init__") for name in brought}
    required = {line.split("==")[0] for line in (model / "requirements.txt").read_text().splitlines()}
    packages = (required - {"mlflow", "pillow"}) | {"PIL"} | set(sys.stdlib_module_names)
    for file in (model / "served.py", *code.rglob("*.py")):
        known = packages | {"mlflow", "pandas"} if file.name == "served.py" else packages  # pandas is MLflow's own
        for name in imported(ast.parse(file.read_text())):
            assert name in brought or name.split(".")[0] in known - {"genxfer"}, f"{file.name} imports {name}"
    assert len(list(code.rglob("*.py"))) <= 32


def imported(tree: ast.Module) -> set[str]:
    """Return the modules that a source file imports anywhere."""
    names = {alias.name for node in ast.walk(tree) if isinstance(node, ast.Import) for alias in node.names}
    return names | {node.module for node in ast.walk(tree) if isinstance(node, ast.ImportFrom) and node.module}
