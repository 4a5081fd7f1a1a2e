"""The filmstrip of a run: what a few fixed noises become, from the start on, one frame at each validation.

Between the validation, which draws these images anyway, and the page that shows them. Frames are appended to a file in
the work folder; as with the rows of the curves, those after the checkpoint are cut off when a run goes on, and are
drawn again, to the same bits. Knows nothing of nets or scores, and needs no torch.
"""

from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from safetensors import numpy as safetensors

from genxfer.artifacts.atomic import write_atomic
from genxfer.training.tracker import NullTracker
from genxfer.training.writing import writing

FRAME_IMAGES = 6
MOST_FRAMES = 12  # that are published: more would not be looked at


@dataclass(frozen=True)
class Filmstrip:
    """Frames uint8 [F 6 C H W] of the same noises, and how many images the run had seen by each [F]; maybe none."""

    frames: NDArray[np.uint8]
    images_seen: NDArray[np.int64]

    def thinned(self, kept_images_seen: int | None) -> "Filmstrip":
        """Return at most MOST_FRAMES of the frames, spread evenly, the frame at `kept_images_seen` among them."""
        n = len(self.images_seen)
        if n <= MOST_FRAMES:
            return self
        chosen = set(np.linspace(0, n - 1, MOST_FRAMES).round().astype(int).tolist())
        for place in np.flatnonzero(self.images_seen == kept_images_seen).tolist():
            inner = sorted(chosen - {0, n - 1}, key=lambda other: abs(other - place))
            chosen = chosen if place in chosen else chosen - {inner[0]} | {place}
        places = sorted(chosen)
        return Filmstrip(self.frames[places], self.images_seen[places])


class FilmFile(NullTracker):
    """The frames of a run in its work folder, one record behind the other: images seen, then pixels.

    Raises StoreError when there is no room.
    """

    def __init__(self, path: Path, channels: int, resolution_px: int) -> None:
        self.path = path
        shape = (FRAME_IMAGES, channels, resolution_px, resolution_px)
        self._record = np.dtype([("images_seen", "<i8"), ("images", "u1", shape)])

    def start(self, total_images: int, images_seen: int) -> None:
        """Keep the frames up to `images_seen` of a file that is already there; at 0 the first one is still to come."""
        records = self._read()
        kept = records[records["images_seen"] <= images_seen] if images_seen else records[:0]
        with writing(f"The frames {self.path}"):
            write_atomic(self.path, kept.tobytes())

    def add(self, images: NDArray[np.uint8], images_seen: int) -> None:
        """Append a frame of `images` [6 C H W]."""
        record = np.empty(1, self._record)
        record["images_seen"], record["images"] = images_seen, images
        with writing(f"The frames {self.path}"), self.path.open("ab") as file:
            file.write(record.tobytes())

    def strip(self) -> Filmstrip:
        """Return all frames."""
        records = self._read()
        return Filmstrip(records["images"].copy(), records["images_seen"].astype(np.int64))

    def _read(self) -> NDArray[np.void]:
        """Return the whole records; a kill may have torn the last."""
        content = self.path.read_bytes() if self.path.exists() else b""
        size = self._record.itemsize
        return np.frombuffer(content[: len(content) // size * size], self._record)


def save_filmstrip(path: Path, strip: Filmstrip) -> None:
    """Write `strip` as safetensors; equal strips are equal bytes."""
    write_atomic(path, safetensors.save({"frames": strip.frames, "images_seen": strip.images_seen}))


def load_filmstrip(path: Path) -> Filmstrip:
    """Return what `save_filmstrip` wrote; raises OSError and safetensors' own error."""
    tensors = safetensors.load(path.read_bytes())
    return Filmstrip(tensors["frames"], tensors["images_seen"])
