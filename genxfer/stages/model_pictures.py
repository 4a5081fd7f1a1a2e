"""Pictures drawn from a trained model into a user's files: `genxfer sample` and `genxfer interpolate`.

Knows nothing of the pipeline: the model is one that was registered, or a snapshot's folder.
"""

import io
from pathlib import Path
from typing import TYPE_CHECKING

from genxfer.artifacts.atomic import write_atomic
from genxfer.stages.user_files import whole_folder, writing

if TYPE_CHECKING:
    import numpy as np

FRAME_MS, REST_MS = 60, 600  # of an animation: a picture on the way, and a sample at its ends


def save_samples(model: str, n: int, seed: int, temperature: float, output: Path) -> None:
    """Draw `n` samples: into one grid (.png), an array [n H W C] (.npy), or a folder of single images.

    Raises RegistryError when there is no such model, ParameterError when a number is out of range or the output cannot
    be written.
    """
    from genxfer.registry.pull import load_images

    images = load_images(model, n, seed, temperature)
    with writing(output):
        match output.suffix.lower():
            case ".png":
                _save_grid(output, images, columns=max(1, round(n**0.5)))
            case ".npy":
                _save_array(output, images)
            case _:
                _save_folder(output, images)


def save_interpolations(model: str, rows: int, frames: int, seed: int, temperature: float, output: Path) -> None:
    """Draw the ways from sample 2r to sample 2r + 1 of `seed`, r < `rows`, in `frames` pictures; raises as above.

    A grid (.png) has a row for each; an animation (.gif) shows all at once, there and back, in a loop.
    """
    from genxfer.registry.pull import load_sampler
    from genxfer.report.animation import save_gif

    ways = load_sampler(model).interpolations(rows, frames, seed, temperature)
    with writing(output):
        if output.suffix.lower() == ".png":
            _save_grid(output, ways.reshape(-1, *ways.shape[2:]), columns=frames)
            return
        columns = max(1, round(rows**0.5))
        pictures = [_laid_out(ways[:, frame], columns) for frame in range(frames)]
        there_and_back = [*range(frames), *range(frames - 2, 0, -1)]
        durations_ms = [REST_MS if frame in (0, frames - 1) else FRAME_MS for frame in there_and_back]
        save_gif(output, [pictures[frame] for frame in there_and_back], durations_ms)


def _laid_out(images: "np.ndarray", columns: int) -> "np.ndarray":
    """Return images [N H W C] as one picture [H W C]."""
    from genxfer.report.grid import enlarged, grid

    images = images.transpose(0, 3, 1, 2)
    return grid(images, columns, scale=enlarged(images))


def _save_grid(path: Path, images: "np.ndarray", columns: int) -> None:
    from genxfer.report.grid import save_png

    save_png(path, _laid_out(images, columns))


def _save_array(path: Path, images: "np.ndarray") -> None:
    import numpy as np

    buffer = io.BytesIO()
    np.save(buffer, images, allow_pickle=False)
    write_atomic(path, buffer.getvalue())


def _save_folder(folder: Path, images: "np.ndarray") -> None:
    from genxfer.report.grid import encode_png

    with whole_folder(folder) as unfinished:
        for i, image in enumerate(images):
            (unfinished / f"{i:05}.png").write_bytes(encode_png(image))
