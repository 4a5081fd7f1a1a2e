"""The exported file draws what torch draws, says what it is, and is not written when it would draw something else."""

import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import onnx
import pytest
import torch
from torch import Tensor

from genxfer.cli import main
from genxfer.errors import GenxferError, ParameterError
from genxfer.models.flow import heun, shifted_times
from genxfer.registry import onnx_export, onnx_graph
from genxfer.registry.onnx_export import Exported, export_onnx, open_session, run, take_turns, to_onnx
from genxfer.registry.onnx_graph import SinglePass, heun_calls
from tests.registry.trained_like import ALL, sampler_of, snapshot_of

# Somebody who has the file and ONNX Runtime, and neither torch nor genxfer.
WITHOUT_TORCH = """
import sys
for absent in ("torch", "genxfer", "onnx"):
    sys.modules[absent] = None
import numpy, onnxruntime
session = onnxruntime.InferenceSession(sys.argv[1], providers=["CPUExecutionProvider"])
(images,) = session.run(None, {"z": numpy.load(sys.argv[2])})
numpy.save(sys.argv[3], images)
"""


@pytest.mark.slow
@pytest.mark.parametrize("name", ALL)
def test_a_file_alone_draws_what_torch_draws(name: str, tmp_path: Path) -> None:
    sampler = sampler_of(name, tmp_path / "snapshot", channels=3)
    exported = export_onnx(sampler, tmp_path / "generator.onnx", rounds=1)
    assert [path.name for path in tmp_path.iterdir() if path.is_file()] == ["generator.onnx"]
    assert exported.max_difference <= 1e-4
    assert exported.size_bytes == (tmp_path / "generator.onnx").stat().st_size
    drawing = (sampler.family.nets[net] for net in sampler.family.sampling_nets)
    weights_bytes = sum(tensor.nbytes for net in drawing for tensor in net.state_dict().values())
    assert exported.size_bytes < weights_bytes + 100_000  # each net once, also where it is called many times
    assert min(exported.onnx_images_per_s, exported.torch_images_per_s) > 0

    noise = sampler.noise(7, seed=11)  # another number of images than any it was checked with
    np.save(tmp_path / "z.npy", noise.flatten(1).numpy())
    files = [str(tmp_path / file) for file in ("generator.onnx", "z.npy", "images.npy")]
    subprocess.run([sys.executable, "-c", WITHOUT_TORCH, *files], check=True)
    images, expected = np.load(tmp_path / "images.npy"), sampler.decode(noise).numpy()
    assert (images.shape, images.dtype) == (expected.shape, np.float32)
    assert np.abs(images - expected).max() <= 1e-4
    assert expected.std() > 0.01  # or there would be nothing to compare


def test_a_file_says_what_it_was_made_from_and_is_the_same_each_time(tmp_path: Path) -> None:
    sampler = sampler_of("vae", tmp_path)
    data = to_onnx(sampler)
    assert to_onnx(sampler) == data
    model = onnx.load_from_string(data)
    onnx.checker.check_model(model, full_check=True)
    described = {entry.key: entry.value for entry in model.metadata_props}
    assert described["genxfer.sha256"] == sampler.digest
    assert described["genxfer.family"] == "vae"
    assert (described["genxfer.latent_dim"], described["genxfer.resolution_px"]) == ("7", "16")  # z, and a choice
    assert described["genxfer.output"] == "images [n C H W], float32 in [-1, 1]"
    assert described["genxfer.version"] == model.producer_version
    # Where each node stood in the source is nobody's business, and half of a small file.
    assert not [node.name for node in model.graph.node if node.metadata_props or node.doc_string]
    assert str(Path(onnx_graph.__file__).parent).encode() not in data


def test_the_calls_of_a_flows_net_add_up_to_heuns_method() -> None:
    def velocity(x: Tensor, t: Tensor) -> Tensor:
        return x.cos() * t.view(-1, 1)

    start = torch.linspace(-1, 1, 10, dtype=torch.float64).view(2, 5)
    times = shifted_times(4)
    x, ahead, slope = start, start, start
    for t, of_slope, of_velocity, look_ahead in heun_calls(times):
        new = velocity(ahead, torch.full((2,), t, dtype=torch.float64))
        x = x + of_slope * slope + of_velocity * new
        ahead, slope = x + look_ahead * new, new
    assert torch.allclose(x, heun(velocity, start, times), atol=1e-12)
    assert len(heun_calls(times)) == 2 * 4 - 1


def test_a_file_that_would_draw_other_images_is_not_written(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    sampler = sampler_of("vae", tmp_path / "snapshot")
    monkeypatch.setattr(SinglePass, "forward", lambda self, z: self.sampler.decode(z * 1.01))
    with pytest.raises(GenxferError, match=r"other images than torch.*allowed is 0\.0001\. Nothing was written"):
        export_onnx(sampler, tmp_path / "generator.onnx")
    assert [path.name for path in tmp_path.iterdir()] == ["snapshot"]


def test_values_that_are_no_numbers_are_beyond_any_tolerance(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    differences = iter([1e-9, float("nan"), 1e-9])
    monkeypatch.setattr(onnx_export, "max_difference", lambda *_: next(differences))
    with pytest.raises(GenxferError, match="nan"):
        export_onnx(sampler_of("vae", tmp_path / "snapshot"), tmp_path / "generator.onnx")


def test_without_the_packages_the_extra_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "onnxruntime", None)
    missing = r"the packages onnxruntime, which are not installed.*make setup.*pip install -e '\.\[onnx\]'"
    with pytest.raises(ParameterError, match=missing):
        export_onnx(sampler_of("vae", tmp_path / "snapshot"), tmp_path / "generator.onnx")


def test_speeds_are_medians_of_turns(monkeypatch: pytest.MonkeyPatch) -> None:
    clock = [0.0]
    monkeypatch.setattr(onnx_export.time, "perf_counter", lambda: clock[0])
    took_s = iter([9, 1, 1, 1, 4, 1, 1])  # the first one of each warms up

    def call() -> None:
        clock[0] += next(took_s)

    def quick() -> None:
        clock[0] += 0.5

    assert take_turns({"call": call, "quick": quick}, n=8, rounds=5) == {"call": 8.0, "quick": 16.0}


def test_export_is_a_verb(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.chdir(tmp_path)
    snapshot_of("mlp_gan", tmp_path / "snapshot")
    assert main(["export", "snapshot", "-o", "out/generator.onnx", "--json"]) == 0
    exported = Exported(**json.loads(capsys.readouterr().out))
    assert (exported.path, exported.family, exported.latent_dim) == ("out/generator.onnx", "mlp_gan", 6)
    session = open_session((tmp_path / exported.path).read_bytes())
    assert run(session, np.zeros((2, 6), np.float32)).shape == (2, 1, 28, 28)

    assert main(["export", "snapshot"]) == 0
    table = capsys.readouterr().out
    assert "generator.onnx" in table
    assert "n x 6 -> n x 1 x 28 x 28 in -1 to 1" in table
    assert (tmp_path / "generator.onnx").read_bytes() == (tmp_path / exported.path).read_bytes()
