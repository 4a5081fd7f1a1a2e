"""What the leading rank tells the launcher, as lines of JSON: a Tracker and a log handler here, a reader there.

Pictures travel as files, the rest in the line. Knows nothing of processes.
"""

import io
import json
import logging
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, TextIO

from genxfer.artifacts.atomic import write_atomic
from genxfer.training.tracker import Tracker
from genxfer.training.writing import writing

if TYPE_CHECKING:
    import numpy as np

PICTURE_FILE = "picture-{name}-{images_seen}.npy"


class Events:
    """Writes one event a line, each at once."""

    def __init__(self, stream: TextIO) -> None:
        self.stream = stream

    def send(self, event: str, **fields: Any) -> None:
        """Write the line; a launcher that is gone is no concern of ours, its supervisor ends us."""
        try:
            self.stream.write(json.dumps({"event": event, **fields}) + "\n")
            self.stream.flush()
        except BrokenPipeError:
            pass


class EventLog(logging.Handler):
    """Log records as events."""

    def __init__(self, events: Events) -> None:
        super().__init__()
        self.events = events

    def emit(self, record: logging.LogRecord) -> None:
        """Send the formatted message."""
        self.events.send("message", logger=record.name, level=record.levelno, text=record.getMessage())


class EventTracker:
    """A Tracker that tells it all to the launcher; the pictures lie in `folder` until that has read them."""

    def __init__(self, events: Events, folder: Path) -> None:
        self.events, self.folder = events, folder

    def start(self, total_images: int, images_seen: int) -> None:
        """Send it."""
        self.events.send("start", total_images=total_images, images_seen=images_seen)

    def log(self, values: Mapping[str, float], images_seen: int) -> None:
        """Send it."""
        self.events.send("log", values=dict(values), images_seen=images_seen)

    def picture(self, name: str, images: "np.ndarray", images_seen: int) -> None:
        """Write the images, then send where they are; the launcher may be some pictures behind."""
        import numpy as np

        path = self.folder / PICTURE_FILE.format(name=name, images_seen=images_seen)
        content = io.BytesIO()
        np.save(content, images, allow_pickle=False)
        with writing(f"The picture {path}"):
            write_atomic(path, content.getvalue())
        self.events.send("picture", name=name, path=str(path), images_seen=images_seen)

    def progress(self, images_seen: int, images_per_s: float) -> None:
        """Send it."""
        self.events.send("progress", images_seen=images_seen, images_per_s=images_per_s)

    def close(self) -> None:
        """Leave closing to the launcher: the ranks may start again."""


def pass_on(event: Mapping[str, Any], tracker: Tracker) -> None:
    """Tell `tracker`, or the log, what one event of a rank says; others are left to the launcher."""
    fields = {name: value for name, value in event.items() if name != "event"}
    if event["event"] == "message":
        logging.getLogger(fields["logger"]).log(fields["level"], "%s", fields["text"])
    elif event["event"] == "picture":
        import numpy as np

        path = Path(fields["path"])
        if path.exists():  # else ranks that had to start again drew it twice, and it was shown
            images = np.load(path, allow_pickle=False)
            path.unlink()
            tracker.picture(fields["name"], images, fields["images_seen"])
    elif event["event"] in ("start", "log", "progress"):
        getattr(tracker, event["event"])(**fields)
