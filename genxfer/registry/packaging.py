"""The files of one model in MLflow's form: weights, the code that draws from them, requirements, a signature.

Models from code: a script, safetensors and a few modules, no pickle. Everything is written without a network. Knows
nothing of stores, versions or runs.
"""

import json
import shutil
import tempfile
from importlib.metadata import version as installed_version
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

import genxfer.errors
from genxfer.artifacts.fingerprint import digest_file
from genxfer.models.files import DESCRIPTION_FILE, WEIGHTS_FILE
from genxfer.registry.config import ModelPackage

if TYPE_CHECKING:
    from mlflow.entities import LoggedModel
    from mlflow.models import ModelSignature

REQUIREMENTS = ("mlflow", "torch", "safetensors", "numpy", "pydantic", "pillow")  # mlflow needs the last three too
CODE = (  # all that served.py imports of genxfer, directly or not
    "checked.py",
    "errors.py",
    "noise.py",
    "artifacts/atomic.py",
    "data/dataset.py",
    "models/*.py",
    "training/snapshot.py",
    "transfer/config.py",
    "transfer/load.py",
    "report/grid.py",
    "registry/limits.py",
    "registry/sampler.py",
)
PARAMS = {"temperature": 1.0, "format": "array"}  # what a request may set beside its rows, and the defaults
CODE_DOCSTRING = '"""The part of genxfer that drawing samples from this registered model needs."""\n'


def save_package(package: ModelPackage, folder: Path, logged: "LoggedModel") -> None:
    """Write the model of `package` into the new `folder`, as MLflow's entry `logged`."""
    import mlflow.pyfunc
    from mlflow.models import Model

    described = json.loads(package.description.read_text())
    with tempfile.TemporaryDirectory(prefix="genxfer-package-") as temporary:
        staging = Path(temporary)
        mlflow.pyfunc.save_model(
            folder,
            python_model=shutil.copyfile(Path(__file__).with_name("served.py"), staging / "served.py"),
            artifacts={key: shutil.copyfile(path, staging / name).as_posix() for key, name, path in _files(package)},
            code_paths=[_copy_code(staging).as_posix()],
            pip_requirements=[f"{name}=={installed_version(name).split('+')[0]}" for name in REQUIREMENTS],
            signature=_signature(described["channels"], described["resolution_px"]),
            input_example=({"n": 4, "seed": 0}, PARAMS),
            metadata={
                "fingerprint": package.fingerprint,
                "lineage": dict(package.lineage),
                "git_commit": package.git_commit,
                "git_dirty": package.git_dirty,
            },
            mlflow_model=Model(
                artifact_path=logged.artifact_location,
                run_id=logged.source_run_id,
                model_uuid=logged.model_id,
                model_id=logged.model_id,
            ),
        )
    for compiled in folder.rglob("__pycache__"):
        shutil.rmtree(compiled)


def file_digests(package: ModelPackage) -> dict[str, str]:
    """Return the sha256 of each file that belongs to the weights, by the name under which the model has it."""
    return {name: digest_file(path) for _, name, path in _files(package)}


def _files(package: ModelPackage) -> list[tuple[str, str, Path]]:
    """Return (MLflow's key, file name, path) of the weights and of all that describes them."""
    return [
        ("weights", WEIGHTS_FILE, package.weights),
        ("description", DESCRIPTION_FILE, package.description),
        *((name, name, path) for name, path in package.source_check.items()),
    ]


def _copy_code(staging: Path) -> Path:
    """Copy the modules of CODE below `staging` as a package `genxfer` that imports nothing of its own accord."""
    root = Path(genxfer.errors.__file__).parent
    package = staging / "genxfer"
    for pattern in CODE:
        for source in sorted(root.glob(pattern)):
            copy = package / source.relative_to(root)
            copy.parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(source, copy)
    for folder in (package, *(path for path in package.rglob("*") if path.is_dir())):
        if not (folder / "__init__.py").exists():
            (folder / "__init__.py").write_text(CODE_DOCSTRING)
    return package


def _signature(channels: int, resolution_px: int) -> "ModelSignature":
    """Return what `served.py` takes, which columns of a row have to be there it says itself, and what it returns.

    With the format `png`, the answer is a list of strings instead, for which a signature has no words.
    """
    from mlflow.models import ModelSignature
    from mlflow.types import ColSpec, DataType, ParamSchema, ParamSpec, Schema, TensorSpec
    from mlflow.types.schema import AnyType, Array

    columns: list[ColSpec | TensorSpec] = [
        ColSpec(DataType.long, "n", required=False),
        ColSpec(DataType.long, "seed", required=False),
        # Rows of anything, which the sampler checks: of rows of doubles, MLflow would refuse the nested noise of a
        # flow, and the whole numbers that JavaScript writes for 0.0.
        ColSpec(Array(AnyType()), "latent", required=False),
    ]
    kinds = {float: DataType.double, str: DataType.string}
    return ModelSignature(
        inputs=Schema(columns),
        outputs=Schema([TensorSpec(np.dtype(np.uint8), (-1, resolution_px, resolution_px, channels), "images")]),
        params=ParamSchema([ParamSpec(name, kinds[type(value)], value) for name, value in PARAMS.items()]),
    )
