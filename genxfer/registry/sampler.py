"""A snapshot's two files become images: the code that travels with every registered version.

It may import what `packaging.py` copies beside it, torch and numpy, and nothing else. Knows nothing of MLflow.
"""

from pathlib import Path

import numpy as np
import torch
from numpy.typing import ArrayLike, NDArray
from torch import Tensor

from genxfer.data.dataset import to_uint8
from genxfer.errors import ParameterError
from genxfer.models.family import SAMPLE_CHUNK, chunk_noise, ways
from genxfer.registry.limits import check_seed, check_temperature
from genxfer.training.snapshot import family_of, load_snapshot


class SnapshotSampler:
    """The nets of one snapshot, ready to draw.

    `temperature` scales the noise that images start from, drawn or given: 1 is what the nets were trained on, at 0 all
    images are the same one. A `flow` starts from noise of the image's own shape, the others from that of a latent z.
    """

    def __init__(self, weights: Path, description: Path) -> None:
        """Load the two files of a snapshot; raises TrainingError when they do not fit."""
        snapshot = load_snapshot(weights, description)
        self.digest = snapshot.digest  # sha256 of the weights
        self.family = family_of(snapshot)
        self.noise_shape = tuple(self.family.noise(1, torch.Generator()).shape[1:])

    @property
    def latent_dim(self) -> int:
        """How many numbers of noise an image starts from."""
        return int(np.prod(self.noise_shape))

    def images(self, n: int, seed: int, temperature: float = 1.0) -> NDArray[np.uint8]:
        """Return uint8 images [n H W C]; image i depends on `seed`, i and the temperature alone.

        Raises ParameterError for a number out of range.
        """
        return self._drawn(self.noise(n, seed), temperature)

    def images_of(self, latent: ArrayLike, temperature: float = 1.0) -> NDArray[np.uint8]:
        """Return uint8 images [n H W C] of `latent` [n latent_dim], or [n C H W] for a flow.

        Raises ParameterError for another shape, or values that are not finite.
        """
        return self._drawn(self._checked(latent), temperature)

    def interpolations(self, rows: int, frames: int, seed: int, temperature: float = 1.0) -> NDArray[np.uint8]:
        """Return uint8 images [rows frames H W C]: row r goes from sample 2r to sample 2r + 1 of `seed`.

        The latents in between are those of `slerp`, at equal steps. Raises ParameterError for a number out of range.
        """
        if frames < 2:
            raise ParameterError(f"frames is {frames}; a way has at least its 2 ends")
        ends = self._latents(self.noise(2 * rows, seed), temperature)
        images = self._images(ways(ends, frames).flatten(0, 1))
        return images.reshape(rows, frames, *images.shape[1:])

    def noise(self, n: int, seed: int) -> Tensor:
        """Return what `n` images of `seed` start from [n ...]; raises ParameterError for a number out of range."""
        if n < 1:
            raise ParameterError(f"n is {n}; it is the number of images to draw, at least 1")
        check_seed(seed)
        chunks = range((n - 1) // SAMPLE_CHUNK + 1)
        return torch.cat([chunk_noise(self.family, chunk, seed) for chunk in chunks])[:n]

    @torch.no_grad()
    def decode(self, noise: Tensor) -> Tensor:
        """Return images [n C H W] in [-1, 1] of `noise` [n ...], drawn at once."""
        nets = self.family.nets
        return self.family.decode(nets, self.family.latent(nets, noise)).clamp(-1, 1)

    def _drawn(self, noise: Tensor, temperature: float) -> NDArray[np.uint8]:
        return self._images(self._latents(noise, temperature))

    @torch.no_grad()
    def _latents(self, noise: Tensor, temperature: float) -> Tensor:
        check_temperature(temperature)
        chunks = _filled(noise * temperature)
        return torch.cat([self.family.latent(self.family.nets, chunk) for chunk in chunks])[: len(noise)]

    @torch.no_grad()
    def _images(self, latents: Tensor) -> NDArray[np.uint8]:
        drawn = (self.family.decode(self.family.nets, chunk).clamp(-1, 1) for chunk in _filled(latents))
        images = torch.cat([to_uint8(chunk) for chunk in drawn])[: len(latents)]
        return images.permute(0, 2, 3, 1).contiguous().numpy()

    def _checked(self, latent: ArrayLike) -> Tensor:
        wanted = f"this model, a {self.family.config.family}, takes {self.latent_dim} numbers for each image"
        try:
            values = np.asarray(latent, np.float32)
        except (TypeError, ValueError):
            raise ParameterError(f"latent is no array of numbers with rows of one length; {wanted}") from None
        if values.ndim < 2 or not len(values) or values.shape[1:] not in (self.noise_shape, (self.latent_dim,)):
            raise ParameterError(f"latent has the shape {list(values.shape)}; {wanted}: [n, {self.latent_dim}]")
        if not np.isfinite(values).all():
            raise ParameterError("latent holds values that are not finite")
        return torch.from_numpy(values).reshape(-1, *self.noise_shape)


def _filled(rows: Tensor) -> tuple[Tensor, ...]:
    """Return `rows` in chunks of one size, the last one filled up: kernels for another size would round differently."""
    filling = rows[:1].expand(-len(rows) % SAMPLE_CHUNK, *rows.shape[1:])
    return torch.cat([rows, filling]).split(SAMPLE_CHUNK)
