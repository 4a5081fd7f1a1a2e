"""Whether registered versions can be used: each is loaded in a process of its own, pickle refused, and draws.

In one process two versions would share the modules that the first of them brought. Knows nothing of what the answer
decides.
"""

import contextlib
import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from genxfer.errors import RegistryError
from genxfer.models.files import DESCRIPTION_FILE, WEIGHTS_FILE
from genxfer.registry.config import tracking_uri
from genxfer.registry.connection import connect, explained

LIMIT_S = 600.0  # for importing torch and mlflow, loading and drawing, on a busy machine
HANDED_ON = {
    *("PATH", "LD_LIBRARY_PATH", "TMPDIR", "TMP", "TEMP", "SYSTEMROOT", "TZ", "LANG", "LC_ALL", "LC_CTYPE"),
    *("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS", "NUMEXPR_NUM_THREADS"),
}
SCRIPT = Path(__file__).with_name("draw_check.py")


@dataclass(frozen=True)
class Drawn:
    """What became of one version: its images, uint8 [N H W C], or why there are none."""

    images: NDArray[np.uint8] | None
    fault: str | None = None


def draw_apart(name: str, versions: Sequence[str], n: int) -> list[Drawn]:
    """Return `n` images of each version, drawn side by side; raises RegistryError when MLflow is out of reach."""
    with tempfile.TemporaryDirectory(prefix="genxfer-draw-") as temporary, contextlib.ExitStack() as running:
        started: list[Drawn | tuple[subprocess.Popen[str], Path]] = []
        for version in versions:
            folder = Path(temporary, version)
            if fault := _fetch(name, version, folder):
                started.append(Drawn(None, fault))
            else:
                started.append(running.enter_context(_process(folder, n)))
        return [one if isinstance(one, Drawn) else _judged(*one, n) for one in started]


def _fetch(name: str, version: str, folder: Path) -> str | None:
    """Fetch the files of a version into `folder`; return what is wrong with them."""
    import mlflow.artifacts

    folder.mkdir()
    uri = f"models:/{name}/{version}"
    try:
        with explained(f"Fetching the files of {uri}"):
            mlflow.artifacts.download_artifacts(artifact_uri=uri, dst_path=str(folder), tracking_uri=tracking_uri())
    except RegistryError as error:
        with explained(f"Looking for {uri}"):
            connect().get_model_version(name, version)  # raises, where not the files but MLflow is gone
        return str(error)
    missing = [file for file in (WEIGHTS_FILE, DESCRIPTION_FILE) if not (folder / "artifacts" / file).exists()]
    return f"{uri} has no {' and no '.join(missing)} in MLflow's artifact store." if missing else None


@contextlib.contextmanager
def _process(folder: Path, n: int) -> "Iterator[tuple[subprocess.Popen[str], Path]]":
    """Start the process that loads what is in `folder`; it is gone at the end, however that comes."""
    command = [sys.executable, "-I", "-B", str(SCRIPT), str(folder), str(n), str(folder / "images.npy")]
    with subprocess.Popen(
        command,
        cwd=folder,
        env=_environment(folder),
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        errors="replace",  # what libraries print is not always UTF-8
    ) as process:
        try:
            yield process, folder
        finally:
            process.kill()


def _environment(folder: Path) -> dict[str, str]:
    """Return the variables of that process: it runs the version's own code, which is to see no secret of who asks."""
    return {name: value for name, value in os.environ.items() if name in HANDED_ON} | {
        "HOME": str(folder),
        "MLFLOW_ALLOW_PICKLE_DESERIALIZATION": "false",
        "MLFLOW_TRACKING_URI": f"sqlite:///{folder}/asked.db",  # none is asked; the real address may hold a password
        "MLFLOW_DISABLE_TELEMETRY": "true",
        "CUDA_VISIBLE_DEVICES": "",  # a few images: no GPU that somebody trains on is to make room for them
    }


def _judged(process: "subprocess.Popen[str]", folder: Path, n: int) -> Drawn:
    """Wait for the process and return the images, if they are what the version's own description promises."""
    try:
        output, errors = process.communicate(timeout=LIMIT_S)
    except subprocess.TimeoutExpired:
        return Drawn(None, f"it was not loaded within {LIMIT_S:.0f} s.")
    if process.returncode != 0:
        last_line = (errors.strip().splitlines() or [f"ended with code {process.returncode}"])[-1]
        return Drawn(None, f"loading it failed: {last_line}")
    facts = json.loads(output.splitlines()[-1])
    if fault := _fault(facts, json.loads((folder / "artifacts" / DESCRIPTION_FILE).read_text()), n, folder):
        return Drawn(None, fault)
    return Drawn(np.load(folder / "images.npy", allow_pickle=False))


def _fault(facts: dict[str, Any], described: dict[str, Any], n: int, folder: Path) -> str | None:
    wanted = [n, described["resolution_px"], described["resolution_px"], described["channels"]]
    if not Path(facts["code"]).is_relative_to(folder):
        return f"it was drawn by {facts['code']}, not by the code that was registered with it."
    if facts["not_finite"]:
        return f"its weights are not finite: {', '.join(facts['not_finite'][:4])}."
    if (facts["shape"], facts["dtype"]) != (wanted, "uint8"):
        return f"it draws {facts['dtype']} {facts['shape']} instead of uint8 {wanted}."
    return "its images are of one colour throughout." if facts["flat"] else None
