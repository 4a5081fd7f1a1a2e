"""From the packed images to this process's share of a batch, on the device and in [-1, 1].

Which images a batch has, and which of them are mirrored, follows from the seed and the images seen alone. Knows
nothing of nets.
"""

import time

import torch
from torch import Tensor

from genxfer.data.dataset import PackedImages, indices, to_model_range
from genxfer.noise import Noise
from genxfer.training.config import TrainConfig
from genxfer.training.distributed import World
from genxfer.training.seeds import noise_seed


class Feed:
    """The batches of one run, each by the images seen before it."""

    def __init__(
        self, images: PackedImages, config: TrainConfig, world: World, memory_format: torch.memory_format
    ) -> None:
        self.images, self.config, self.world, self.memory_format = images, config, world, memory_format
        self.seconds = 0.0  # that training waited for data
        self._generator = torch.Generator(world.device)
        self._ahead: tuple[int, Tensor] | None = None

    def batch(self, images_seen: int) -> Tensor:
        """Return the real images [N C H W] of the step that starts at `images_seen`."""
        started_s = time.perf_counter()
        ahead = self._ahead
        real = ahead[1] if ahead is not None and ahead[0] == images_seen else self._read(images_seen)
        self._ahead = None
        real = to_model_range(real, self.memory_format)
        if self.config.mirror:
            real = self._mirrored(real, images_seen).contiguous(memory_format=self.memory_format)
        self.seconds += time.perf_counter() - started_s
        return real

    def look_ahead(self, images_seen: int) -> None:
        """Let a GPU have the next batch while it still computes; a processor has nothing else to do meanwhile."""
        if self.world.device.type == "cuda":
            self._ahead = (images_seen, self._read(images_seen))

    def _read(self, images_seen: int) -> Tensor:
        """Return this rank's images as uint8 [N C H W], on their way to the device."""
        chosen = indices(
            len(self.images), self.config.seed, images_seen, self.config.batch, self.world.rank, self.world.size
        )
        real = self.images.batch(chosen)
        if self.world.device.type == "cuda":
            real = real.pin_memory()
        return real.to(self.world.device, non_blocking=True)

    def _mirrored(self, real: Tensor, images_seen: int) -> Tensor:
        """Return `real` with half of the images, by chance, flipped left-right."""
        self._generator.manual_seed(noise_seed(self.config.seed, images_seen, "mirror"))
        noise = Noise(self._generator, self.config.batch, self.world.rows(self.config.batch))
        return torch.where(noise.uniform((len(real), 1, 1, 1), real) < 0.5, real.flip(3), real)
