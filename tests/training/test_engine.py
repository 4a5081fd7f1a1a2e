"""The loop, held to its promises for every family."""

import csv
import json
import logging
from collections.abc import Callable
from pathlib import Path
from types import ModuleType

import numpy as np
import pytest
import torch
from torch import Tensor

from genxfer.errors import ParameterError, TrainingError
from genxfer.models.config import FAMILIES
from genxfer.models.family import Family, sample
from genxfer.training.checkpoint import checkpoint_files
from genxfer.training.distributed import World
from genxfer.training.interrupt import Interrupted
from genxfer.training.pace import TrainResult
from genxfer.training.seeds import noise_seed
from genxfer.training.snapshot import load_into, load_snapshot
from genxfer.training.tracker import NullTracker
from genxfer.transfer.config import Freeze, FreezeD, Gradual

TrainSmall = Callable[..., TrainResult]
families = pytest.mark.parametrize("name", FAMILIES)


class Cancelled(BaseException):
    """What an orchestrator raises in its thread."""


class StopAt(NullTracker):
    """Raises Cancelled at the first picture or report from `images_seen` on."""

    def __init__(self, images_seen: int, event: str) -> None:
        self.images_seen, self.event = images_seen, event

    def log(self, values: object, images_seen: int) -> None:
        self.meet("log", images_seen)

    def picture(self, name: str, images: np.ndarray, images_seen: int) -> None:
        self.meet("picture", images_seen)

    def meet(self, event: str, images_seen: int) -> None:
        if event == self.event and images_seen >= self.images_seen:
            raise Cancelled


class Recorder(NullTracker):
    """Keeps what it is told."""

    def __init__(self) -> None:
        self.logged: list[tuple[int, dict[str, float]]] = []
        self.pictures: list[tuple[int, np.ndarray]] = []
        self.started: list[tuple[int, int]] = []
        self.closed = False

    def start(self, total_images: int, images_seen: int) -> None:
        self.started.append((total_images, images_seen))

    def log(self, values: dict[str, float], images_seen: int) -> None:
        self.logged.append((images_seen, dict(values)))

    def picture(self, name: str, images: np.ndarray, images_seen: int) -> None:
        self.pictures.append((images_seen, images))

    def close(self) -> None:
        self.closed = True


def weights(family: Family) -> dict[str, Tensor]:
    return {name: tensor.clone() for name, tensor in family.nets.state_dict().items()}


def frozen_names(family: Family, counts: dict[str, int]) -> set[str]:
    """The state-dict names of everything in the first `counts[net]` layer groups, buffers included."""
    names: set[str] = set()
    for net, groups in family.layer_groups().items():
        modules = {id(part) for group in groups[: counts.get(net, 0)] for m in group.modules for part in m.modules()}
        for prefix, module in family.nets[net].named_modules():
            if id(module) in modules:
                names |= {f"{net}.{prefix}.{own}" for own in [*module._parameters, *module._buffers]}
    return names & set(family.nets.state_dict())


def all_but_one(family: Family) -> dict[str, int]:
    return {net: len(groups) - 1 for net, groups in family.layer_groups().items()}


@families
def test_frozen_groups_keep_their_bits_and_everything_else_moves(
    name: str, small: ModuleType, train_small: TrainSmall, tmp_path: Path
) -> None:
    keys = {"discriminator_normalization": "batch"} if name == "dcgan" else {}
    family = small.small_family(name, **keys)
    counts = all_but_one(family)
    train_small(family, tmp_path / "source")  # with layers that start at zero held there, nothing else would move
    init = load_snapshot(tmp_path / "source/out/snapshot.safetensors", tmp_path / "source/out/snapshot.json")
    before = init.weights
    result = train_small(family, init=init, method=Freeze(freeze=counts))
    after = load_snapshot(tmp_path / "out/snapshot.safetensors", tmp_path / "out/snapshot.json").weights
    frozen = frozen_names(family, counts)
    assert frozen
    assert {key for key in after if torch.equal(after[key], before[key])} == frozen
    assert result.fixed_parameters == sum(before[key].numel() for key in frozen & parameter_names(family))
    assert result.moved_parameters > 0


def parameter_names(family: Family) -> set[str]:
    return {name for name, _ in family.nets.named_parameters()}


@families
def test_a_cancelled_run_goes_on_to_the_same_bits(
    name: str, small: ModuleType, train_small: TrainSmall, tmp_path: Path
) -> None:
    whole, parts = tmp_path / "whole", tmp_path / "parts"
    method = Gradual(freeze=dict.fromkeys(small.small_family(name).layer_groups(), 1), thaw_every_kimg=0.02)
    keys = {"samples_every_kimg": 0.006, "report_every_kimg": 0.016, "lr_schedule": "cosine", "method": method}
    train_small(small.small_family(name), whole, **keys)
    with pytest.raises(Cancelled):
        train_small(small.small_family(name), parts, tracker=StopAt(4, "picture"), **keys)
    # Half-way into a reporting interval, before the thaw.
    assert [path.name for path in checkpoint_files(parts / "work")] == ["checkpoint-000000000008.safetensors"]
    result = train_small(small.small_family(name, seed=9), parts, **keys)
    assert result.resumed_from == 8
    for file in ("snapshot.safetensors", "snapshot.json", "curves.csv"):
        assert (parts / "out" / file).read_bytes() == (whole / "out" / file).read_bytes(), file


def test_an_interruption_within_a_report_leaves_no_checkpoint(
    small: ModuleType, train_small: TrainSmall, tmp_path: Path
) -> None:
    with pytest.raises(Cancelled):
        train_small(small.small_family("mlp_vae"), tracker=StopAt(12, "log"))
    assert checkpoint_files(tmp_path / "work") == []


def test_the_same_seed_gives_the_same_bits_and_another_one_does_not(
    small: ModuleType, train_small: TrainSmall, tmp_path: Path
) -> None:
    for folder, seed in (("one", 1), ("again", 1), ("other", 2)):
        torch.manual_seed(len(folder))  # the global state must not matter
        train_small(small.small_family("vae"), tmp_path / folder, seed=seed)
    one, again, other = (
        (tmp_path / folder / "out/snapshot.safetensors").read_bytes() for folder in ("one", "again", "other")
    )
    assert one == again
    assert one != other


def test_checkpoints_do_not_change_the_result(small: ModuleType, train_small: TrainSmall, tmp_path: Path) -> None:
    train_small(small.small_family("dcgan"), tmp_path / "without")
    train_small(small.small_family("dcgan"), tmp_path / "with", checkpoint_every_s=0.0)
    assert len(checkpoint_files(tmp_path / "with/work")) >= 1
    out = "out/snapshot.safetensors"
    assert (tmp_path / "without" / out).read_bytes() == (tmp_path / "with" / out).read_bytes()


class Late(World):
    """A world whose answers are a step late, as over gloo; once `most` checkpoints were agreed upon, all stop."""

    def __init__(self, most: int) -> None:
        super().__init__()
        self.most, self.agreed = most, 0
        self.asked = False

    def agree(self, *wishes: bool) -> tuple[bool, ...]:
        answer, self.asked = self.asked, wishes[1]
        self.agreed += answer
        return self.agreed == self.most, answer


def test_a_checkpoint_that_is_agreed_upon_a_step_late_is_written_once(
    small: ModuleType, train_small: TrainSmall, tmp_path: Path
) -> None:
    with pytest.raises(Interrupted):
        train_small(small.small_family("mlp_vae"), world=Late(2), kimg=1000, checkpoint_every_s=0.0)
    second, first = (int(path.stem.split("-")[1]) for path in checkpoint_files(tmp_path / "work"))
    assert first == 8
    assert second > 12


def test_groups_thaw_on_schedule_and_the_log_says_so(
    small: ModuleType, train_small: TrainSmall, caplog: pytest.LogCaptureFixture
) -> None:
    family = small.small_family("dcgan")
    before = weights(family)
    with caplog.at_level(logging.INFO, "genxfer.training"):
        result = train_small(family, method=Gradual(freeze={"discriminator": 2}, thaw_every_kimg=0.02), kimg=0.032)
    tables = [record.getMessage() for record in caplog.records if "what moves" in record.getMessage()]
    assert [table.splitlines()[0] for table in tables] == ["what moves at 0 kimg:", "what moves at 0.02 kimg:"]
    assert tables[0].count("fixed\n") == 2
    assert tables[1].count("fixed\n") == 1
    after = weights(family)
    changed = {name.split(".")[1] for name in after if "discriminator" in name and not after[name].equal(before[name])}
    assert changed == {"block_8px", "head"}
    fixed = [after[name] for name in parameter_names(family) if name.startswith("discriminator.block_16px.")]
    assert result.fixed_parameters == sum(tensor.numel() for tensor in fixed)


def test_a_phase_whose_nets_are_all_fixed_is_left_out(
    small: ModuleType, train_small: TrainSmall, tmp_path: Path
) -> None:
    family = small.small_family("dcgan")
    counts = {"discriminator": len(family.layer_groups()["discriminator"])}
    train_small(family, method=Freeze(freeze=counts))
    assert (tmp_path / "out/curves.csv").read_text().splitlines()[0] == "images_seen,fake_spread,generator"


def test_a_method_that_the_family_cannot_follow_is_refused(small: ModuleType, train_small: TrainSmall) -> None:
    with pytest.raises(ParameterError, match=r"finetune\.freeze\.unet is 1.*generator, discriminator"):
        train_small(small.small_family("dcgan"), method=Freeze(freeze={"unet": 1}))


def test_a_loss_that_is_not_finite_stops_training_with_its_name(
    small: ModuleType, train_small: TrainSmall, tmp_path: Path
) -> None:
    family = small.small_family("vae")
    recorder = Recorder()
    healthy = family.loss

    def diverging(phase: str, real: Tensor, step: object) -> dict[str, Tensor]:
        terms = healthy(phase, real, step)  # type: ignore[arg-type]
        return terms | {"kl": terms["kl"] * (float("nan") if step.images_seen >= 12 else 1)}  # type: ignore[attr-defined]

    family.loss = diverging  # type: ignore[method-assign]
    with pytest.raises(TrainingError, match=r"'kl' is nan at images_seen 12 .*lower lr.*precision=fp32"):
        train_small(family, tracker=recorder)
    assert recorder.closed
    assert checkpoint_files(tmp_path / "work") == []
    assert not (tmp_path / "out").exists()


def test_the_snapshot_holds_the_averaged_generator_and_the_latest_discriminator(
    small: ModuleType, train_small: TrainSmall, tmp_path: Path
) -> None:
    averaged, latest = small.small_family("dcgan"), small.small_family("dcgan")
    train_small(averaged, tmp_path / "averaged", ema_kimg=1.0)
    train_small(latest, tmp_path / "latest", ema_kimg=0.0)
    a, b = weights(averaged), weights(latest)
    assert all(torch.equal(a[name], b[name]) for name in a if name.startswith("discriminator."))
    assert not any(torch.equal(a[name], b[name]) for name in parameter_names(averaged) if name.startswith("generator."))
    published = load_snapshot(tmp_path / "averaged/out/snapshot.safetensors", tmp_path / "averaged/out/snapshot.json")
    assert all(torch.equal(published.weights[name], a[name]) for name in a)


def test_a_new_run_starts_from_a_snapshot_and_names_it(
    small: ModuleType, train_small: TrainSmall, tmp_path: Path
) -> None:
    train_small(small.small_family("dcgan"), tmp_path / "source")
    init = load_snapshot(tmp_path / "source/out/snapshot.safetensors", tmp_path / "source/out/snapshot.json")
    family = small.small_family("dcgan", seed=5)
    counts = all_but_one(family)
    train_small(family, tmp_path / "target", init=init, method=Freeze(freeze=counts))
    after = weights(family)
    assert all(torch.equal(after[name], init.weights[name]) for name in frozen_names(family, counts))
    description = json.loads((tmp_path / "target/out/snapshot.json").read_text())
    assert description["parent"] == {"sha256": init.digest, "images_seen": 40}
    assert description["images_seen"] == 40


def test_a_transfer_is_a_new_run_and_resuming_goes_on_with_the_old_one(
    small: ModuleType, train_small: TrainSmall, tmp_path: Path
) -> None:
    """A transfer begins at 0 images, whatever its source had seen; resuming goes on, to the same bits."""
    train_small(small.small_family("vae"), tmp_path / "source", kimg=0.08)
    init = load_snapshot(tmp_path / "source/out/snapshot.safetensors", tmp_path / "source/out/snapshot.json")
    assert init.images_seen == 80
    short, longer = Recorder(), Recorder()
    transferred = train_small(
        small.small_family("vae", seed=5), tmp_path / "target", init=init, tracker=short, checkpoint_every_s=0.0
    )
    assert (short.started, transferred.images_seen, transferred.resumed_from) == ([(40, 0)], 40, None)
    resumed = train_small(small.small_family("vae", seed=5), tmp_path / "target", init=init, tracker=longer, kimg=0.06)
    assert resumed.resumed_from
    assert (longer.started, resumed.images_seen) == ([(60, resumed.resumed_from)], 60)
    unbroken = small.small_family("vae", seed=5)
    train_small(unbroken, tmp_path / "unbroken", init=init, kimg=0.06)
    again = load_snapshot(tmp_path / "target/out/snapshot.safetensors", tmp_path / "target/out/snapshot.json")
    assert all(torch.equal(again.weights[name], tensor) for name, tensor in weights(unbroken).items())


def test_a_transfer_takes_over_what_fits_and_trains_the_rest(
    small: ModuleType, train_small: TrainSmall, tmp_path: Path
) -> None:
    train_small(small.small_family("dcgan"), tmp_path / "source")
    init = load_snapshot(tmp_path / "source/out/snapshot.safetensors", tmp_path / "source/out/snapshot.json")
    wanted = {"init": init, "method": FreezeD(layers=2)}
    with pytest.raises(TrainingError, match=r"less than finetune\.min_taken_over = 1"):
        train_small(small.small_family("dcgan", latent_dim=5), tmp_path / "strict", **wanted)
    family = small.small_family("dcgan", latent_dim=5)
    train_small(family, tmp_path / "partial", min_taken_over=0.5, **wanted)
    after = weights(family)
    assert all(torch.equal(after[name], init.weights[name]) for name in frozen_names(family, {"discriminator": 2}))


def test_samples_are_drawn_from_the_average_with_the_same_seeds(
    small: ModuleType, train_small: TrainSmall, tmp_path: Path
) -> None:
    recorder, family = Recorder(), small.small_family("mlp_gan")
    train_small(family, tracker=recorder, samples_every_kimg=1, seed=3)
    ((images_seen, images),) = recorder.pictures
    assert images_seen == 40
    assert (images.dtype, images.shape) == (np.uint8, (32, 1, 28, 28))
    again = sample(family, family.nets.eval(), 32, seed=3)
    assert np.abs(images.astype(float) - (again.numpy() + 1) * 127.5).max() <= 0.5 + 1e-4


def test_curves_hold_the_mean_of_each_interval(small: ModuleType, train_small: TrainSmall, tmp_path: Path) -> None:
    every, some = Recorder(), Recorder()
    train_small(small.small_family("mlp_vae"), tmp_path / "every", tracker=every, report_every_kimg=0.004)
    train_small(small.small_family("mlp_vae"), tmp_path / "some", tracker=some, report_every_kimg=0.02)
    assert [images_seen for images_seen, _ in some.logged] == [20, 40]
    expected = np.mean([values["reconstruction"] for _, values in every.logged[:5]])
    assert some.logged[0][1]["reconstruction"] == pytest.approx(expected)
    with (tmp_path / "some/out/curves.csv").open() as file:
        rows = list(csv.DictReader(file))
    assert [float(row["reconstruction"]) for row in rows] == [values["reconstruction"] for _, values in some.logged]


def test_noise_differs_between_seeds_steps_and_phases() -> None:
    places = [(seed, seen, phase) for seed in (0, 1) for seen in (0, 64) for phase in ("generator", "discriminator")]
    assert len({noise_seed(*place) for place in places}) == len(places)


def test_a_run_says_how_it_went(small: ModuleType, train_small: TrainSmall) -> None:
    family = small.small_family("mlp_gan")
    result = train_small(family)
    assert result.images_seen == 40
    assert result.images_per_s == pytest.approx(40 / result.seconds, rel=0.2)
    assert 0 < result.data_wait_share < 1
    assert 0 < result.report_share < 1
    assert f"{result.images_seen / 1000:g} kimg" in str(result)
    assert result.moved_parameters == sum(parameter.numel() for parameter in family.nets.parameters())
    assert result.fixed_parameters == 0
    assert json.loads(json.dumps(result.facts()))["resumed_from"] is None


def test_weights_of_another_width_are_refused_before_training(
    small: ModuleType, train_small: TrainSmall, tmp_path: Path
) -> None:
    train_small(small.small_family("vae"), tmp_path / "source")
    init = load_snapshot(tmp_path / "source/out/snapshot.safetensors", tmp_path / "source/out/snapshot.json")
    with pytest.raises(TrainingError, match="of another shape: "):
        load_into(small.small_family("vae", width=16), init)
