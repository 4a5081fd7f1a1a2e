"""The random numbers of one phase of one step, of which a process draws only its own rows.

A step's batch may be shared out over processes, and a process's share over micro-batches. Everybody draws the noise of
the whole batch from the same seed and keeps the rows of its own images, so that an image meets the same noise however
the batch is shared out. Knows nothing of who else there is.
"""

from collections.abc import Sequence

import torch
from torch import Tensor


class Noise:
    """Draws for the images `rows` of a batch of `batch`; whole batches unless told otherwise."""

    def __init__(self, generator: torch.Generator, batch: int | None = None, rows: slice | None = None) -> None:
        self.generator, self.batch = generator, batch
        self.rows = rows or slice(None)

    def normal(self, size: Sequence[int], like: Tensor) -> Tensor:
        """Return standard normal float32 `size` [n ...] for the n images at hand, on the device of `like`."""
        whole = torch.randn(self._whole(size), generator=self.generator, device=self.generator.device)
        return self._own(whole, size).to(like.device)

    def uniform(self, size: Sequence[int], like: Tensor) -> Tensor:
        """Return float32 `size` [n ...], uniform in [0, 1), for the n images at hand, on the device of `like`."""
        whole = torch.rand(self._whole(size), generator=self.generator, device=self.generator.device)
        return self._own(whole, size).to(like.device)

    def common(self, size: Sequence[int], like: Tensor) -> Tensor:
        """Return standard normal float32 `size`, no images' own: the same whatever rows are at hand."""
        return torch.randn(tuple(size), generator=self.generator, device=self.generator.device).to(like.device)

    def _whole(self, size: Sequence[int]) -> tuple[int, ...]:
        return (size[0] if self.batch is None else self.batch, *size[1:])

    def _own(self, whole: Tensor, size: Sequence[int]) -> Tensor:
        own = whole[self.rows]
        if len(own) != size[0]:
            raise ValueError(f"noise for {size[0]} images was asked for, but {self.rows} are the rows of {self.batch}")
        return own
