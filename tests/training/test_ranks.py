"""The same training whatever the number of processes, and after any of them was killed."""

import csv
import random
import shutil
import time
from pathlib import Path

import numpy as np
import pytest
from safetensors.numpy import load_file

from genxfer.models.config import FAMILIES
from genxfer.training.checkpoint import checkpoint_files
from genxfer.transfer.config import CDC, EWC, Gradual, Lora, MethodConfig, ScaleShift
from tests.training.ranks import start

families = pytest.mark.parametrize("name", FAMILIES)

FAMILY_KEYS: dict[str, dict[str, object]] = {
    # BatchNorm in both nets, so that the penalty's second derivative goes through shared statistics.
    "dcgan": {"discriminator_normalization": "batch", "r1_every": 2},
    # Wide enough for GroupNorm to have groups of two: alone, a channel's bias has no gradient but rounding errors.
    "flow": {"width": 16},
}


def trained(name: str, size: int, folder: Path, **keys: object) -> tuple[dict[str, np.ndarray], list[dict[str, str]]]:
    """Train, and return the weights and the rows of the curves."""
    codes = start(name, size, folder, FAMILY_KEYS.get(name), **keys).wait()
    assert codes == [0] * size
    with (folder / "out/curves.csv").open(newline="") as file:
        return load_file(folder / "out/snapshot.safetensors"), list(csv.DictReader(file))


@families
def test_two_and_four_processes_train_as_one_does(name: str, tmp_path: Path) -> None:
    keys = {"kimg": 0.048, "batch": 8, "report_every_kimg": 0.008, "method": thawing(name)}
    weights, curves = trained(name, 1, tmp_path / "1", **keys)
    for size in (2, 4):
        others, other_curves = trained(name, size, tmp_path / str(size), **keys)
        for key, tensor in weights.items():
            np.testing.assert_allclose(others[key], tensor, rtol=1e-4, atol=2e-5, err_msg=f"{size} {key}")
        for row, other in zip(curves, other_curves, strict=True):
            for term in row.keys() - {"fake_spread"}:  # within a share, not within the batch
                one, several = (float(cell or "nan") for cell in (row[term], other[term]))
                assert several == pytest.approx(one, rel=1e-4, abs=1e-5, nan_ok=True), (size, term)


def test_a_penalty_through_batch_norm_that_is_shared_as_on_gpus_trains_as_one_process_does(tmp_path: Path) -> None:
    keys = {"kimg": 0.024, "batch": 8}
    weights, curves = trained("dcgan", 1, tmp_path / "1", **keys)
    assert any(row.get("r1") for row in curves)
    others, _ = trained("dcgan", 2, tmp_path / "2", norms_as_on_gpus=True, **keys)
    for key, tensor in weights.items():
        np.testing.assert_allclose(others[key], tensor, rtol=1e-4, atol=2e-5, err_msg=key)


def test_two_processes_of_two_hosts_train_as_one_does_and_write_each_checkpoint_once(tmp_path: Path) -> None:
    keys = {"kimg": 0.024, "batch": 8, "report_every_kimg": 0.008, "checkpoint_every_s": 0.0}
    weights, _ = trained("dcgan", 1, tmp_path / "1", **keys)
    others, _ = trained("dcgan", 2, tmp_path / "2", apart=True, **keys)
    for key, tensor in weights.items():
        np.testing.assert_allclose(others[key], tensor, rtol=1e-4, atol=2e-5, err_msg=key)
    # Asked for in the first step of three, written at the end of the second, when the answer is there.
    assert [path.name for path in checkpoint_files(tmp_path / "2/work")] == ["checkpoint-000000000016.safetensors"]


@pytest.mark.parametrize("method", [ScaleShift(), Lora(rank=2)], ids=lambda method: method.method)
def test_two_processes_adapt_as_one_does(method: MethodConfig, tmp_path: Path) -> None:
    keys = {"kimg": 0.024, "batch": 8, "method": method}
    weights, _ = trained("dcgan", 1, tmp_path / "1", **keys)
    others, _ = trained("dcgan", 2, tmp_path / "2", **keys)
    for key, tensor in weights.items():
        np.testing.assert_allclose(others[key], tensor, rtol=1e-4, atol=2e-5, err_msg=key)


def thawing(name: str) -> Gradual:
    net = {"dcgan": "discriminator", "mlp_gan": "discriminator", "flow": "unet"}.get(name, "encoder")
    return Gradual(freeze={net: 2}, thaw_every_kimg=0.016)


# Each rank estimates the information and compares latents by itself, alike; patches are judged by shares.
@pytest.mark.parametrize("method", [EWC(strength=1.0), CDC(strength=1000.0)], ids=lambda method: method.method)
def test_two_processes_train_by_a_method_as_one_does(method: MethodConfig, tmp_path: Path) -> None:
    keys = {"kimg": 0.032, "batch": 8, "report_every_kimg": 0.008, "method": method}
    weights, curves = trained("dcgan", 1, tmp_path / "1", **keys)
    others, other_curves = trained("dcgan", 2, tmp_path / "2", **keys)
    for key, tensor in weights.items():
        np.testing.assert_allclose(others[key], tensor, rtol=1e-4, atol=2e-5, err_msg=key)
    for row, other in zip(curves, other_curves, strict=True):
        for term in row.keys() - {"fake_spread"}:  # within a share, not within the batch
            one, two = (float(cell or "nan") for cell in (row[term], other[term]))
            # A thousandfold divergence of nearly equal distributions keeps fewer digits than the weights.
            assert two == pytest.approx(one, rel=1e-3 if term == "cdc_distance" else 1e-4, abs=1e-5, nan_ok=True), term


# The families without BatchNorm: for the others a micro-batch has statistics of its own.
@pytest.mark.parametrize("name", ["mlp_gan", "mlp_vae", "flow"])
def test_micro_batches_leave_the_gradients_of_the_batch(name: str, tmp_path: Path) -> None:
    keys = {"kimg": 0.032, "batch": 8}
    weights, _ = trained(name, 1, tmp_path / "whole", **keys)
    for size, micro_batch in ((1, 3), (2, 3)):
        others, _ = trained(name, size, tmp_path / f"{size}-{micro_batch}", micro_batch=micro_batch, **keys)
        for key, tensor in weights.items():
            np.testing.assert_allclose(others[key], tensor, rtol=1e-4, atol=2e-5, err_msg=key)


@pytest.mark.slow
@pytest.mark.parametrize("size", [1, 2])
@families
def test_a_run_killed_at_any_of_20_moments_ends_with_the_same_bits(name: str, size: int, tmp_path: Path) -> None:
    keys = {"kimg": 0.2, "checkpoint_every_s": 0.0, "method": thawing(name), "validate_every_kimg": 0.02, "lr": 0.01}
    assert start(name, size, tmp_path / "whole", FAMILY_KEYS.get(name), **keys).wait() == [0] * size
    draw = random.Random(f"{name} {size}")
    hits = 0
    folder = tmp_path / "killed"
    for _ in range(20):
        group = start(name, size, folder, FAMILY_KEYS.get(name), **keys)
        seen = set((folder / "work").glob("checkpoint-*"))
        deadline_s = time.monotonic() + 60
        # A moment within the work: after its first new checkpoint or a little later, never in its start-up alone.
        while set((folder / "work").glob("checkpoint-*")) == seen and group.processes[0].is_alive():
            assert time.monotonic() < deadline_s
            time.sleep(0.002)
        time.sleep(draw.uniform(0, 0.05))
        victims = group.processes if draw.random() < 0.5 else [draw.choice(group.processes)]
        hits += any(process.is_alive() for process in victims)
        for process in victims:
            process.kill()
        group.kill()
        if (folder / "out/snapshot.safetensors").exists():
            shutil.rmtree(folder)  # it had finished: the remaining kills hit another run from its start
    assert hits >= 15  # the others came just after the end
    assert start(name, size, folder, FAMILY_KEYS.get(name), **keys).wait() == [0] * size
    for file in ("snapshot.safetensors", "snapshot.json", "curves.csv"):
        assert (folder / "out" / file).read_bytes() == (tmp_path / "whole/out" / file).read_bytes(), file
