"""Who is told how training goes: the terminal, a file of curves, and whatever a stage adds (MLflow).

The engine speaks to one Tracker in images seen; what a tracker makes of it is its own business, also how often. Knows
nothing of nets. Without torch, so that a cached run can hold a tracker for free.
"""

import contextlib
import csv
import io
import logging
import sys
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Protocol

from genxfer.artifacts.atomic import write_atomic
from genxfer.training.writing import writing

if TYPE_CHECKING:
    import numpy as np
    from rich.progress import Progress

logger = logging.getLogger("genxfer.training")

PLAIN_LINE_EVERY_S = 10.0


class Tracker(Protocol):
    """What the engine tells, in this order: start, then the others as they happen, then close, however it ends.

    Training that goes back to an earlier state, or whose processes start again, is told of by another start.
    """

    def start(self, total_images: int, images_seen: int) -> None:
        """Training begins, or goes on, at `images_seen` and is to reach `total_images`."""

    def log(self, values: Mapping[str, float], images_seen: int) -> None:
        """The loss terms, each the mean since the last report."""

    def picture(self, name: str, images: "np.ndarray", images_seen: int) -> None:
        """Images uint8 [N C H W], drawn from the same seeds each time."""

    def progress(self, images_seen: int, images_per_s: float) -> None:
        """Where training stands; told about twice a second."""

    def close(self) -> None:
        """Training has ended: finished, stopped or failed."""


class NullTracker:
    """A tracker that tells nobody; others inherit what they do not care about."""

    def start(self, total_images: int, images_seen: int) -> None:
        """Ignore it."""

    def log(self, values: Mapping[str, float], images_seen: int) -> None:
        """Ignore it."""

    def picture(self, name: str, images: "np.ndarray", images_seen: int) -> None:
        """Ignore it."""

    def progress(self, images_seen: int, images_per_s: float) -> None:
        """Ignore it."""

    def close(self) -> None:
        """Ignore it."""


class Trackers:
    """Several trackers as one, told in this order."""

    def __init__(self, trackers: Sequence[Tracker]) -> None:
        self.trackers = tuple(trackers)

    def start(self, total_images: int, images_seen: int) -> None:
        """Tell each."""
        for tracker in self.trackers:
            tracker.start(total_images, images_seen)

    def log(self, values: Mapping[str, float], images_seen: int) -> None:
        """Tell each."""
        for tracker in self.trackers:
            tracker.log(values, images_seen)

    def picture(self, name: str, images: "np.ndarray", images_seen: int) -> None:
        """Tell each."""
        for tracker in self.trackers:
            tracker.picture(name, images, images_seen)

    def progress(self, images_seen: int, images_per_s: float) -> None:
        """Tell each."""
        for tracker in self.trackers:
            tracker.progress(images_seen, images_per_s)

    def close(self) -> None:
        """Close each."""
        for tracker in self.trackers:
            tracker.close()


class CurveFile(NullTracker):
    """curves.csv: `images_seen` and one column per loss term; no times in it, so equal runs leave equal files.

    Rows are appended. At the start, rows after `images_seen` and a row torn by a kill are cut off: a resumed run writes
    them again, to the same digits. A term without a value in an interval leaves its cell empty. Raises StoreError when
    there is no room.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self._columns: list[str] = []

    def start(self, total_images: int, images_seen: int) -> None:
        """Keep the rows up to `images_seen` of a file that is already there."""
        lines = self.path.read_text().splitlines(keepends=True) if self.path.exists() else []
        whole = [line for line in lines if line.endswith("\n")]
        if images_seen == 0 or not whole:
            self._columns = []
            self._replace(b"")
            return
        self._columns = next(csv.reader(whole[:1]))
        kept = [line for line in whole[1:] if int(line.split(",", 1)[0]) <= images_seen]
        self._replace("".join([whole[0], *kept]).encode())

    def log(self, values: Mapping[str, float], images_seen: int) -> None:
        """Append one row; a term seen for the first time adds a column to the whole file."""
        row: dict[str, float | int] = {"images_seen": images_seen, **values}
        new = [name for name in row if name not in self._columns]
        if new:
            with self.path.open(newline="") as file:
                rows: list[Mapping[str, object]] = [*csv.DictReader(file), row]
            self._columns += new
            self._replace(self._text(rows, header=True))
            return
        with writing(f"The curves {self.path}"), self.path.open("ab") as file:
            file.write(self._text([row], header=False))

    def _replace(self, content: bytes) -> None:
        with writing(f"The curves {self.path}"):
            write_atomic(self.path, content)

    def _text(self, rows: Sequence[Mapping[str, object]], header: bool) -> bytes:
        text = io.StringIO(newline="")
        writer = csv.DictWriter(text, self._columns, restval="", lineterminator="\n")
        if header:
            writer.writeheader()
        writer.writerows(rows)
        return text.getvalue().encode()


class ConsoleTracker(NullTracker):
    """A progress bar where standard error is a terminal; elsewhere a log line every ten seconds."""

    def __init__(self, title: str) -> None:
        self.title = title
        self._total_images = 0
        self._values = ""
        self._next_line_s = 0.0
        self._bar: Progress | None = None

    def start(self, total_images: int, images_seen: int) -> None:
        """Show the bar, in place of one that is there, or write nothing yet."""
        self.close()
        self._total_images = total_images
        self._next_line_s = time.monotonic() + PLAIN_LINE_EVERY_S
        if sys.stderr.isatty():
            self._bar = progress_bar()
            self._bar.add_task(self.title, total=total_images, completed=images_seen, speed="", values="")
            self._bar.start()

    def log(self, values: Mapping[str, float], images_seen: int) -> None:
        """Remember the terms for the next line."""
        self._values = "  ".join(f"{name} {value:.4g}" for name, value in values.items())

    def progress(self, images_seen: int, images_per_s: float) -> None:
        """Move the bar, or write a line when it is time for one."""
        if self._bar is not None:
            speed = f"{images_per_s:,.0f} images/s"
            self._bar.update(self._bar.task_ids[0], completed=images_seen, speed=speed, values=self._values)
        elif time.monotonic() >= self._next_line_s or images_seen >= self._total_images:
            self._next_line_s = time.monotonic() + PLAIN_LINE_EVERY_S
            left_s = (self._total_images - images_seen) / max(images_per_s, 1e-9)
            done = f"{images_seen / 1000:.1f} of {self._total_images / 1000:.1f} kimg"
            speed = f"{images_per_s:,.0f} images/s, {max(left_s, 0):.0f} s to go"
            logger.info("%s: %s, %s  %s", self.title, done, speed, self._values)

    def close(self) -> None:
        """Leave the bar as it stands."""
        if self._bar is not None:
            with contextlib.suppress(OSError):  # the terminal was closed
                self._bar.stop()
            self._bar = None


def progress_bar() -> "Progress":
    """Return a rich bar on standard error: title, share, speed, time to go, losses."""
    from rich import progress
    from rich.console import Console
    from rich.table import Column

    one_line = Column(no_wrap=True, overflow="ellipsis", ratio=1)
    return progress.Progress(
        progress.TextColumn("{task.description}"),
        progress.BarColumn(bar_width=24),
        progress.TaskProgressColumn(),
        progress.TextColumn("{task.fields[speed]}"),
        progress.TimeRemainingColumn(compact=True),
        progress.TextColumn("[dim]{task.fields[values]}", table_column=one_line),
        console=Console(stderr=True),
        expand=True,
    )
