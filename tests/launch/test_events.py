"""What the leading rank tells arrives as it was told, however far behind the launcher is."""

import io
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from genxfer.launch.events import Events, EventTracker, pass_on
from genxfer.training.tracker import NullTracker


class Shown(NullTracker):
    def __init__(self) -> None:
        self.pictures: list[tuple[int, np.ndarray]] = []

    def picture(self, name: str, images: np.ndarray, images_seen: int) -> None:
        self.pictures.append((images_seen, images))


class Rank:
    """The leading rank's end, which sends pictures of one value."""

    def __init__(self, folder: Path) -> None:
        self.lines = io.StringIO()
        self.tracker = EventTracker(Events(self.lines), folder)

    def show(self, value: int, images_seen: int, side_px: int = 4) -> None:
        self.tracker.picture("samples", np.full((2, 3, side_px, side_px), value, dtype=np.uint8), images_seen)

    def told(self) -> list[dict[str, Any]]:
        return [json.loads(line) for line in self.lines.getvalue().splitlines()]


@pytest.fixture
def rank(tmp_path: Path) -> Rank:
    return Rank(tmp_path)


def test_each_picture_is_shown_as_it_was_drawn_and_none_is_left(rank: Rank, tmp_path: Path) -> None:
    rank.show(1, 1000)
    rank.show(2, 2000)
    shown = Shown()
    for event in rank.told():
        pass_on(event, shown)
    assert [(seen, int(images.min()), int(images.max())) for seen, images in shown.pictures] == [
        (1000, 1, 1),
        (2000, 2, 2),
    ]
    assert list(tmp_path.iterdir()) == []


def test_a_picture_that_is_drawn_again_does_not_change_the_one_that_is_being_read(rank: Rank) -> None:
    rank.show(1, 1000, side_px=64)
    with Path(rank.told()[0]["path"]).open("rb") as reading:
        rank.show(2, 1000)
        assert np.load(reading).max() == 1


def test_a_picture_that_ranks_draw_again_after_a_restart_ends_nothing(rank: Rank) -> None:
    rank.show(1, 1000)
    rank.show(1, 1000)
    shown = Shown()
    for event in rank.told():
        pass_on(event, shown)
    assert [seen for seen, _ in shown.pictures] == [1000]
