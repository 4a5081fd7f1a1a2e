"""The pictures that stages leave beside their results: sample grids, and previews of packed images."""

from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import numpy as np

    from genxfer.models.family import Family

GRID_IMAGES = 64


def draw(family: "Family", n: int, seed: int) -> "np.ndarray":
    """Return `n` samples as uint8 [n C H W]."""
    from genxfer.data.dataset import to_uint8
    from genxfer.models.family import sample

    family.nets.eval()
    return to_uint8(sample(family, family.nets, n, seed)).numpy()


def save_grid(path: Path, images: "np.ndarray") -> None:
    """Write the first images of uint8 [N C H W] as one PNG file."""
    from genxfer.report.grid import enlarged, grid, save_png

    save_png(path, grid(images[:GRID_IMAGES], columns=8, scale=enlarged(images)))


def save_images(path: Path, images: "np.ndarray") -> None:
    """Write the first images of uint8 [N C H W] as an array, for pages that lay them out anew."""
    import numpy as np

    np.save(path, images[:GRID_IMAGES])


def save_preview(out_dir: Path) -> None:
    """Draw some of the packed images, so that a look tells whether the right thing was packed."""
    import numpy as np

    images = np.load(out_dir / "train.npy", mmap_mode="r")
    save_grid(out_dir / "preview.png", images[spread(len(images), GRID_IMAGES)])


def spread(n: int, shown: int) -> "np.ndarray":
    """Return up to `shown` of `n` places, mixed: data sets often begin with one class alone."""
    import numpy as np

    return np.random.default_rng(0).permutation(n)[:shown]
