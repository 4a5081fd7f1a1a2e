"""A run that is told to stop, at a moment of its own."""

import signal

from genxfer.training.tracker import NullTracker


class StopAt(NullTracker):
    """Terminates this process, gently, at the first report from `images_seen` on."""

    def __init__(self, images_seen: int) -> None:
        self.images_seen = images_seen

    def log(self, values: object, images_seen: int) -> None:
        if images_seen >= self.images_seen:
            signal.raise_signal(signal.SIGTERM)
