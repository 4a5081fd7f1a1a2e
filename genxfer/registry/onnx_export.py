"""The nets that draw samples as one ONNX file, which needs neither torch nor genxfer: written when it draws the same.

Before anything is written, ONNX Runtime draws from random latents with the file's bytes and is compared with torch;
both are timed on one core. `onnx_graph.py` makes the graph. Knows nothing of MLflow.
"""

import importlib.util
import statistics
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from importlib.metadata import version as installed_version
from pathlib import Path
from typing import TYPE_CHECKING

from genxfer.artifacts.atomic import write_atomic
from genxfer.errors import GenxferError, ParameterError

if TYPE_CHECKING:
    import numpy as np
    from onnxruntime import InferenceSession

    from genxfer.registry.sampler import SnapshotSampler

PACKAGES = ("onnx", "onnxscript", "onnxruntime")  # the extra `onnx`
TOLERANCE = 1e-4  # between torch and ONNX Runtime, of values in [-1, 1]: a hundredth of a step of an 8-bit pixel
CHECKED_BATCHES = (1, 3, 32)
SPEED_BATCH = 32
ROUNDS = 5
TURN_S = 0.2  # of one side's turn in a round: a single batch of a small net is too short to time


@dataclass(frozen=True)
class Exported:
    """What was written, how far it is from torch, and how fast both are on one core at batches of SPEED_BATCH."""

    path: str
    size_bytes: int
    family: str
    latent_dim: int
    image_shape: tuple[int, int, int]  # C H W
    max_difference: float  # over all values of all images checked
    torch_images_per_s: float
    onnx_images_per_s: float


def check_packages() -> None:
    """Raise ParameterError when what exports and runs ONNX files is not installed."""
    if missing := [name for name in PACKAGES if importlib.util.find_spec(name) is None]:
        raise ParameterError(
            f"An ONNX file needs the packages {', '.join(missing)}, which are not installed. `make setup` "
            "installs them; without it: pip install -e '.[onnx]' in genxfer's folder."
        )


def export_onnx(sampler: "SnapshotSampler", path: Path, rounds: int = ROUNDS) -> Exported:
    """Write the sampling nets of `sampler` to `path`, whole or not at all, and return how it compares with torch.

    Raises ParameterError without the packages, GenxferError when the two differ by more than TOLERANCE.
    """
    check_packages()
    data = to_onnx(sampler)
    session = open_session(data)
    differences = [max_difference(sampler, session, n) for n in CHECKED_BATCHES]
    if not all(value <= TOLERANCE for value in differences):  # so written, NaN is beyond it
        raise GenxferError(
            f"The ONNX file would draw other images than torch: in batches of {', '.join(map(str, CHECKED_BATCHES))}, "
            f"values of [-1, 1] differ by up to {', '.join(f'{value:.2g}' for value in differences)}; allowed is "
            f"{TOLERANCE:g}. Nothing was written. Try other versions of {', '.join(PACKAGES)}."
        )
    speed = compare_speed(sampler, session, SPEED_BATCH, rounds)
    write_atomic(path, data)
    shape = sampler.family.shape
    return Exported(
        str(path),
        len(data),
        sampler.family.config.family,
        sampler.latent_dim,
        (shape.channels, shape.resolution_px, shape.resolution_px),
        max(differences),
        speed["torch"],
        speed["onnx"],
    )


def to_onnx(sampler: "SnapshotSampler") -> bytes:
    """Return the ONNX file: input `z` [n latent_dim], output `images` [n C H W] in [-1, 1], and what it was made from.

    The same snapshot gives the same bytes, with the same versions of the packages.
    """
    from onnx import helper

    from genxfer.registry.onnx_graph import build_graph

    model = build_graph(sampler)
    model.producer_name, model.producer_version = "genxfer", installed_version("genxfer")
    shape = sampler.family.shape
    described = {
        "version": installed_version("genxfer"),
        "sha256": sampler.digest,
        "family": sampler.family.config.family,
        "latent_dim": sampler.latent_dim,
        "channels": shape.channels,
        "resolution_px": shape.resolution_px,
        "input": "z [n latent_dim], standard normal",
        "output": "images [n C H W], float32 in [-1, 1]",
    }
    helper.set_model_props(model, {f"genxfer.{name}": str(value) for name, value in described.items()})
    return bytes(model.SerializeToString(deterministic=True))


def open_session(data: bytes) -> "InferenceSession":
    """Return the ONNX file `data` in ONNX Runtime, on one core."""
    from onnxruntime import InferenceSession, SessionOptions

    options = SessionOptions()
    options.intra_op_num_threads = options.inter_op_num_threads = 1
    return InferenceSession(data, options, providers=["CPUExecutionProvider"])


def run(session: "InferenceSession", latent: "np.ndarray") -> "np.ndarray":
    """Return images [n C H W] in [-1, 1] of `latent` [n latent_dim], as ONNX Runtime draws them."""
    images: np.ndarray
    (images,) = session.run(["images"], {"z": latent})
    return images


def max_difference(sampler: "SnapshotSampler", session: "InferenceSession", n: int) -> float:
    """Return by how much the values of `n` images, drawn at once from random latents, differ at most, or NaN."""
    noise = sampler.noise(n, seed=n)
    images = run(session, noise.flatten(1).numpy())
    return float(abs(sampler.decode(noise).numpy() - images).max())


def compare_speed(sampler: "SnapshotSampler", session: "InferenceSession", n: int, rounds: int) -> dict[str, float]:
    """Return images/s of `torch` and `onnx` for batches of `n`, on one core, from noise in memory to float images."""
    import torch

    noise = sampler.noise(n, seed=0)
    latent, threads = noise.flatten(1).numpy(), torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        return take_turns({"torch": lambda: sampler.decode(noise), "onnx": lambda: run(session, latent)}, n, rounds)
    finally:
        torch.set_num_threads(threads)


def take_turns(calls: Mapping[str, Callable[[], object]], n: int, rounds: int) -> dict[str, float]:
    """Return images/s of each of `calls`, which draw `n` images: the median of `rounds`, in which they take turns."""
    speeds: dict[str, list[float]] = {name: [] for name in calls}
    for call in calls.values():
        call()  # the first one allocates, and chooses its kernels
    for _ in range(rounds):
        for name, call in calls.items():
            drawn, began_s = 0, time.perf_counter()
            while (passed_s := time.perf_counter() - began_s) < TURN_S:
                call()
                drawn += n
            speeds[name].append(drawn / passed_s)
    return {name: statistics.median(values) for name, values in speeds.items()}
