"""Features that are kept: computed once, verified when read, and never those of other images or weights."""

from pathlib import Path

import pytest
import torch
from torch import Tensor

from genxfer.metrics.cache import cached_features
from genxfer.metrics.features import Pixels
from tests.metrics.feature_samples import rectified

FEATURES = rectified(20, 8, seed=0)


class Computer:
    """Counts how often it was asked."""

    asked = 0

    def __call__(self) -> Tensor:
        self.asked += 1
        return FEATURES


def test_features_are_computed_once(tmp_path: Path) -> None:
    compute = Computer()
    for _ in range(3):
        assert torch.equal(cached_features(tmp_path, "a" * 64, Pixels(), compute), FEATURES)
    assert compute.asked == 1
    assert [path.suffix for path in tmp_path.iterdir()] == [".safetensors"]


def test_other_images_and_other_weights_have_features_of_their_own(tmp_path: Path) -> None:
    compute = Computer()
    other = Pixels()
    other.digest = "0" * 64
    for images, extractor in (("a" * 64, Pixels()), ("b" * 64, Pixels()), ("a" * 64, other)):
        cached_features(tmp_path, images, extractor, compute)
    assert compute.asked == 3


@pytest.mark.parametrize("damage", ["flipped", "torn", "empty"])
def test_a_damaged_file_is_said_aloud_and_made_again(
    damage: str, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    compute = Computer()
    cached_features(tmp_path, "a" * 64, Pixels(), compute)
    [path] = tmp_path.iterdir()
    content = bytearray(path.read_bytes())
    content[-1] ^= 1
    path.write_bytes({"flipped": bytes(content), "torn": bytes(content[:-9]), "empty": b""}[damage])
    assert torch.equal(cached_features(tmp_path, "a" * 64, Pixels(), compute), FEATURES)
    assert path.name in caplog.text
    assert compute.asked == 2
    cached_features(tmp_path, "a" * 64, Pixels(), compute)
    assert compute.asked == 2


def test_where_nothing_can_be_written_features_are_computed_each_time(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    (tmp_path / "file").write_text("")
    assert torch.equal(cached_features(tmp_path / "file", "a" * 64, Pixels(), Computer()), FEATURES)
    assert "not kept" in caplog.text
