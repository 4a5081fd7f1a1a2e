"""ADA: images are augmented as often as overfitting asks for.

Karras et al. 2020, "Training Generative Adversarial Networks with Limited Data", section 3, by the heuristic r_t.
The engine adds the signs that a family's discriminator gives real images, and asks for the probability of the next
step. Part of a checkpoint, so that a resumed run goes on with the same numbers. Knows nothing of what the augmentations
do.
"""

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from genxfer.training.config import ADAPTIVE, TrainConfig
from genxfer.training.distributed import World

TERM = "~logits_real_sign"  # what a family with a discriminator reports: the mean of sign(D(real)) over its images
TARGET = 0.6  # of that mean, from the paper; above it the discriminator knows the training images too well
LARGEST_P = 0.8  # beyond, what is done to the images shows in what the generator makes (the paper's section 2.2)
ADJUSTED_EVERY = 4  # steps


class AugmentChance:
    """The probability with which each augmentation falls on an image: fixed, or adapted; the same on all ranks.

    The signs are whole numbers until they are compared, so their sum does not depend on who added which.
    """

    def __init__(self, config: TrainConfig, world: World) -> None:
        self.world = world
        self.adaptive = config.augment_p == ADAPTIVE
        self.p = 0.0 if config.augment_p == ADAPTIVE else float(config.augment_p)
        self._images_to_1 = config.ada_kimg * 1000
        self._signs = torch.zeros((), dtype=torch.float64, device=world.device)  # of this rank, since the last change
        self._images = 0

    def add(self, terms: Mapping[str, Tensor], n: int) -> None:
        """Add the signs of the `n` real images which `terms` are of, if they are among them; waits for no GPU."""
        if self.adaptive and TERM in terms:
            self._signs += (terms[TERM].detach().double() * n).round()
            self._images += n

    def adjust(self, steps: int) -> None:
        """Move the probability towards the target after every fourth of the `steps` done; all ranks have to ask."""
        if not self.adaptive or steps % ADJUSTED_EVERY or not self._images:
            return
        images = self._images * self.world.size
        excess = self._of_all_ranks() / images - TARGET
        step = images / self._images_to_1
        self.p = min(max(self.p + (step if excess > 0 else -step if excess < 0 else 0.0), 0.0), LARGEST_P)
        self._signs.zero_()
        self._images = 0

    def curve(self) -> dict[str, float]:
        """Return the point of the curves: the present probability, where it is not fixed."""
        return {"augment_p": self.p} if self.adaptive else {}

    def facts(self) -> dict[str, Any] | None:
        """Return what a checkpoint holds of it; all ranks have to ask."""
        if not self.adaptive:
            return None
        return {"p": self.p, "signs": self._of_all_ranks(), "images": self._images * self.world.size}

    def restore(self, facts: Mapping[str, Any] | None) -> None:
        """Take over what `facts` returned, in any number of ranks."""
        if facts is None:
            return
        self.p = facts["p"]
        self._signs.fill_(facts["signs"] if self.world.rank == 0 else 0)
        self._images = facts["images"] // self.world.size

    def _of_all_ranks(self) -> float:
        return float(self.world.gather([self._signs]).sum())
