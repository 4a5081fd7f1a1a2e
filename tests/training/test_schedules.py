"""Formulas that are checked by hand: learning rate, average, Adam, precision."""

import subprocess
import sys
from pathlib import Path
from types import ModuleType

import pytest
import torch
from pydantic import ValidationError
from torch import nn

from genxfer.training import precision
from genxfer.training.adam import Adam
from genxfer.training.config import ComputeConfig, TrainConfig, lr_at
from genxfer.training.ema import EMA, ema_decay


def test_the_learning_rate_warms_up_linearly_and_stays() -> None:
    config = TrainConfig(kimg=10, batch=100, lr=0.1, warmup_kimg=1)
    assert lr_at(config, 0) == pytest.approx(0.01)
    assert lr_at(config, 400) == pytest.approx(0.05)
    assert [lr_at(config, seen) for seen in (900, 1000, 9900)] == [0.1, 0.1, 0.1]


def test_the_learning_rate_follows_half_a_cosine_to_zero() -> None:
    config = TrainConfig(kimg=11, batch=100, lr=0.1, warmup_kimg=1, lr_schedule="cosine")
    assert [lr_at(config, seen) for seen in (900, 1000, 6000, 11_000)] == pytest.approx([0.1, 0.1, 0.05, 0.0])
    assert lr_at(TrainConfig(kimg=1, batch=100, lr=0.1), 0) == 0.1


def test_the_average_has_its_half_life_and_a_shorter_one_at_first() -> None:
    assert ema_decay(ema_kimg=5, images_seen=100_000, batch=5_000) == pytest.approx(0.5)
    assert ema_decay(ema_kimg=5, images_seen=1_000, batch=100) == pytest.approx(0.5)  # 10 % of 1,000
    assert ema_decay(ema_kimg=5, images_seen=1_000, batch=200) == pytest.approx(0.25)
    assert ema_decay(ema_kimg=0, images_seen=100_000, batch=64) == 0.0


def test_the_average_moves_parameters_and_running_statistics_and_copies_counters(small: ModuleType) -> None:
    family = small.small_family("dcgan")
    ema = EMA(family)
    latest, average = family.nets["generator"], ema.nets["generator"]
    before = {name: tensor.clone() for name, tensor in average.state_dict().items()}
    with torch.no_grad():
        for parameter in latest.parameters():
            parameter += 1
        for buffer in latest.buffers():
            buffer += 3
    ema.update(decay=0.75)
    after = average.state_dict()
    assert torch.allclose(after["projection.0.weight"], before["projection.0.weight"] + 0.25)
    [statistics, *_] = [name for name in after if name.endswith("running_mean")]
    assert torch.allclose(after[statistics], before[statistics] + 0.75)
    [counter, *_] = [name for name in after if name.endswith("num_batches_tracked")]
    assert after[counter] == before[counter] + 3
    assert set(ema.nets) == {"generator"}
    assert not average.training
    assert not any(parameter.requires_grad for parameter in average.parameters())


def test_adam_takes_the_steps_of_torch_bit_by_bit() -> None:
    generator = torch.Generator().manual_seed(0)
    shape = (4, 3, 5, 5)
    ours = nn.Parameter(torch.randn(shape, generator=generator).contiguous(memory_format=torch.channels_last))
    fixed = nn.Parameter(torch.ones(2))
    theirs = nn.Parameter(ours.detach().clone())
    optimizer = Adam({"ours": ours, "fixed": fixed}, betas=(0.5, 0.9))
    reference = torch.optim.Adam([theirs], lr=0.01, betas=(0.5, 0.9), fused=True)
    for _ in range(3):
        ours.grad = torch.randn(shape, generator=generator).contiguous(memory_format=torch.channels_last)
        theirs.grad = ours.grad.clone()
        optimizer.step(lr=0.01)
        reference.step()
    assert torch.equal(ours, theirs)
    assert torch.equal(fixed, torch.ones(2))
    assert ours.grad is None
    assert set(optimizer.state()) == {"step.ours", "mean.ours", "square.ours"}


def test_bf16_is_chosen_where_the_processor_has_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "")
    cpuinfo = tmp_path / "cpuinfo"
    for flags, expected in (("fpu avx512_bf16 amx", True), ("fpu amx_bf16", True), ("fpu avx512f", False)):
        cpuinfo.write_text(f"processor : 0\nflags : {flags}\n")
        assert precision.processor_has_bf16(cpuinfo) == expected
    assert not precision.processor_has_bf16(tmp_path / "not there")
    assert not precision.gpu_in_sight()
    assert precision.resolve_precision("fp32") == "fp32"
    assert precision.resolve_precision("auto") == ("bf16" if precision.processor_has_bf16() else "fp32")


@pytest.mark.parametrize(
    ("names", "expected"),
    [(["nvidia0"], True), (["nvidia3", "nvidiactl"], True), (["nvidiactl", "nvidia-uvm"], False), ([], False)],
)
def test_a_gpu_is_in_sight_whatever_its_number(
    names: list[str], expected: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    for name in names:
        (tmp_path / name).touch()
    assert precision.gpu_in_sight(tmp_path) == expected
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "-1")
    assert not precision.gpu_in_sight(tmp_path)


def test_what_a_cached_run_reads_does_not_import_torch() -> None:
    code = (
        "import sys; import genxfer.training.config, genxfer.training.tracker, genxfer.transfer.config\n"
        "from genxfer.training.precision import resolve_precision\n"
        "resolve_precision('auto'); sys.exit('torch' in sys.modules or 'numpy' in sys.modules)"
    )
    environment = {"PYTHONPATH": str(Path(__file__).parents[2]), "CUDA_VISIBLE_DEVICES": ""}
    assert subprocess.run([sys.executable, "-c", code], env=environment, check=False).returncode == 0


def test_training_does_not_import_the_compiler(tmp_path: Path) -> None:
    script = Path(__file__).with_name("train_small.py")
    code = (
        f"import sys, runpy; sys.argv = ['train', 'mlp_gan', '0.02', '100', {str(tmp_path)!r}]\n"
        f"runpy.run_path({str(script)!r}, run_name='__main__'); sys.exit('torch._dynamo' in sys.modules)"
    )
    environment = {"PYTHONPATH": str(Path(__file__).parents[2])}
    assert subprocess.run([sys.executable, "-c", code], env=environment, check=False).returncode == 0


@pytest.mark.parametrize("bad", [{"kimg": 0}, {"batch": 0}, {"lr": 2}, {"augment": ("colour",)}, {"unknown": 1}])
def test_numbers_out_of_range_are_refused(bad: dict[str, object]) -> None:
    with pytest.raises(ValidationError):
        TrainConfig.model_validate({"kimg": 1} | bad)


def test_threads_and_devices_have_their_ranges() -> None:
    assert ComputeConfig(threads=2).threads == 2
    assert ComputeConfig(devices=2).devices == 2
    for bad in ({"threads": 0}, {"devices": 0}, {"micro_batch": 0}, {"precision": "fp16"}):
        with pytest.raises(ValidationError):
            ComputeConfig.model_validate(bad)
