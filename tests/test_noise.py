"""The noise of a batch, and a process's rows of it."""

import pytest
import torch

from genxfer.noise import Noise


def generator() -> torch.Generator:
    return torch.Generator().manual_seed(3)


def test_the_rows_of_all_processes_are_the_noise_of_one() -> None:
    whole = Noise(generator())
    first = Noise(generator(), 8, slice(0, 3))
    second = Noise(generator(), 8, slice(3, 8))
    like = torch.zeros(1)
    for draw in ("normal", "uniform", "normal"):
        parts = [getattr(first, draw)((3, 2), like), getattr(second, draw)((5, 2), like)]
        assert torch.equal(getattr(whole, draw)((8, 2), like), torch.cat(parts))


def test_another_number_of_images_than_rows_is_refused() -> None:
    with pytest.raises(ValueError, match="noise for 4 images"):
        Noise(generator(), 8, slice(0, 3)).normal((4, 2), torch.zeros(1))
