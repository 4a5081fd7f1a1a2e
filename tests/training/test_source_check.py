"""The source check: the same model passes it, any other does not, and what cannot be checked is said."""

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from types import ModuleType

import pytest
import torch
from torch import Tensor

from genxfer.data.dataset import to_uint8
from genxfer.errors import TrainingError
from genxfer.models.config import FAMILIES
from genxfer.models.family import Family, sample
from genxfer.training.snapshot import Snapshot, load_snapshot, save_snapshot
from genxfer.training.source_check import SourceCheck, check_source, load_check, own_score, save_check
from genxfer.training.start import checked_start
from genxfer.transfer.config import Full
from tests.models.as_trained import as_trained


def trained(small: ModuleType, name: str, seed: int = 0, **keys: object) -> Family:
    """A small family whose every layer answers with something, as after training."""
    family: Family = small.small_family(name, seed, **keys)
    return as_trained(family, seed)


def domain(family: Family) -> Tensor:
    """Images that the family could not be better at: its own."""
    return to_uint8(sample(family, family.nets.eval(), 64, seed=9))


def published(folder: Path, family: Family) -> Snapshot:
    save_snapshot(folder, family, images_seen=1500, parent=None)
    return load_snapshot(folder / "snapshot.safetensors", folder / "snapshot.json")


def lost_statistics(family: Family) -> None:
    for module in family.nets.modules():
        if isinstance(module, torch.nn.BatchNorm2d):
            module.reset_running_stats()


def flipped_filters(family: Family) -> None:
    with torch.no_grad():
        for module in family.nets[family.sampling_nets[0]].modules():
            if isinstance(module, torch.nn.Conv2d | torch.nn.ConvTranspose2d | torch.nn.Linear):
                module.weight.copy_(module.weight.flip(-1))


def weights_of_bf16(family: Family) -> None:
    for parameter in family.nets.parameters():
        parameter.data = parameter.data.bfloat16().float()


@pytest.mark.parametrize("name", FAMILIES)
def test_the_loaded_model_passes_and_another_of_the_same_shape_does_not(
    name: str, small: ModuleType, tmp_path: Path
) -> None:
    source = trained(small, name)
    check = own_score(source, domain(source))
    save_check(tmp_path, check)
    check = load_check(tmp_path / "source_check.safetensors", tmp_path / "source_check.json")
    snapshot, method = published(tmp_path, source), Full()
    start = checked_start(trained(small, name, seed=1), snapshot, check, method, 1.0, 0)
    assert start.source_check.passed
    assert start.source_check.kid == check.score.value
    facts = start.facts()
    assert facts["share"] == 1
    assert facts["source_check"]["source_kid"] == check.score.value
    other = published(tmp_path / "other", trained(small, name, seed=1))
    with pytest.raises(TrainingError, match=r"not the source model.*score a KID of .*the source model scored") as error:
        checked_start(trained(small, name), other, check, method, 1.0, 0)
    assert f"{check.score.value:.4f}" in str(error.value)
    assert "another version of torch" in str(error.value)


def test_a_model_that_is_to_draw_in_other_steps_is_checked_in_those_of_its_source(
    small: ModuleType, tmp_path: Path
) -> None:
    source = trained(small, "flow", sample_steps=8)
    check = own_score(source, domain(source))
    family = trained(small, "flow", seed=1, sample_steps=1)
    result = checked_start(family, published(tmp_path, source), check, Full(), 1.0, 0).source_check
    assert result.kid == check.score.value
    assert family.config.model_dump()["sample_steps"] == 1


@pytest.mark.parametrize("fault", [lost_statistics, flipped_filters])
def test_a_model_that_was_loaded_wrongly_does_not_pass(fault: Callable[[Family], None], small: ModuleType) -> None:
    family = trained(small, "dcgan")
    check = own_score(family, domain(family))
    fault(family)
    with pytest.raises(TrainingError, match="not the source model"):
        check_source(family, check)


@pytest.mark.parametrize("name", FAMILIES)
def test_rounding_passes(name: str, small: ModuleType) -> None:
    """Far coarser than what another processor or a GPU does to the last bits."""
    family = trained(small, name)
    check = own_score(family, domain(trained(small, name, seed=2)))
    weights_of_bf16(family)
    assert check_source(family, check).passed


def test_the_number_of_training_images_may_be_one(small: ModuleType) -> None:
    family = trained(small, "mlp_vae")
    check = own_score(family, domain(family)[:1])
    assert check_source(family, check).passed


def test_what_cannot_be_checked_is_left_out_with_the_reason(
    small: ModuleType, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    source = trained(small, "mlp_gan")
    check, snapshot, method = own_score(source, domain(source)), published(tmp_path, source), Full()

    def outcome(family: Family, check: SourceCheck | None, share: float = 1.0) -> str:
        caplog.clear()
        with caplog.at_level("INFO", "genxfer"):
            result = checked_start(family, snapshot, check, method, share, 0).source_check
        assert result.passed is None
        assert f"source check: left out, because {result.reason}" in caplog.text
        return result.reason

    assert "no score of its own" in outcome(trained(small, "mlp_gan", 1), None)
    assert "differs from the source model" in outcome(trained(small, "mlp_gan", 1, width=16), check, 0.0)
    assert "are others now" in outcome(trained(small, "mlp_gan", 1), replace(check, extractor_digest="0" * 64))


def test_a_damaged_or_foreign_check_is_refused(small: ModuleType, tmp_path: Path) -> None:
    family = trained(small, "mlp_vae")
    save_check(tmp_path, own_score(family, domain(family)))
    features, score = tmp_path / "source_check.safetensors", tmp_path / "source_check.json"
    score.write_text(score.read_text().replace('"schema": 1', '"schema": 9'))
    with pytest.raises(TrainingError, match=r"schema 9(.|\n)*remove both"):
        load_check(features, score)
    features.write_bytes(features.read_bytes()[:-1])
    with pytest.raises(TrainingError, match="cannot be read"):
        load_check(features, score)
