"""One phase's turn in a step: its loss on this process's images, in micro-batches if need be, and the gradients of it.

Between the engine, which decides when, and the family, which knows the objective. Knows nothing of optimizers.
"""

from collections.abc import Iterator
from contextlib import nullcontext
from functools import partial

import torch
from torch import Tensor, nn

from genxfer.data.augment import augment
from genxfer.models.config import AugmentPolicy
from genxfer.models.family import Family, Phase, Step
from genxfer.noise import Noise
from genxfer.training.distributed import World
from genxfer.training.losses import minimised
from genxfer.training.precision import Precision
from genxfer.transfer.method import Method


class PhaseLoss(nn.Module):
    """The loss of one phase as a module whose parameters are those that the phase moves: what DDP can wrap."""

    def __init__(self, family: Family, phase: Phase, method: Method) -> None:
        super().__init__()
        self.nets = nn.ModuleDict({name: family.nets[name] for name in phase.nets})
        if phase.name in method.nets:
            self.nets["method"] = method.nets[phase.name]
        self.loss = partial(family.loss, phase.name)
        self.further_terms = partial(method.terms, family, phase.name)

    def forward(self, real: Tensor, step: Step) -> dict[str, Tensor]:
        """Return the named loss terms of `real` [N C H W], the family's and the method's."""
        return self.loss(real, step) | self.further_terms(real, step)


class Turn:
    """The turns of one phase for as long as the same parameters move."""

    def __init__(
        self,
        family: Family,
        phase: Phase,
        method: Method,
        world: World,
        policy: AugmentPolicy,
        precision: Precision,
    ) -> None:
        self.method, self.world, self.policy, self.precision = method, world, policy, precision
        self.loss = world.share_gradients(PhaseLoss(family, phase, method))

    def gradients(
        self,
        real: Tensor,
        batch: int,
        index: int,
        images_seen: int,
        generator: torch.Generator,
        micro_batch: int,
        augment_p: float,
    ) -> Iterator[tuple[dict[str, Tensor], float]]:
        """Leave the gradients of the whole `batch`; yield the terms of each micro-batch of `real`, and its share.

        Each augmentation of the policy falls on an image with the probability `augment_p`.
        `generator` is seeded anew for each micro-batch by its initial seed: each keeps other rows of the same noise.
        """
        first, seed = self.world.rows(batch).start, generator.initial_seed()
        for start in range(0, len(real), micro_batch):
            part = real[start : start + micro_batch]
            rows = slice(first + start, first + start + len(part))
            noise = Noise(generator.manual_seed(seed), batch, rows)
            step = Step(
                index,
                images_seen,
                noise,
                augment=partial(augment, policy=self.policy, noise=noise, probability=augment_p),
                latent=partial(self.method.latent, noise=noise),
            )
            share = len(part) / len(real)
            last = start + len(part) == len(real)
            with nullcontext() if last else self.world.hold_back(self.loss):
                with torch.autocast(real.device.type, torch.bfloat16, enabled=self.precision == "bf16"):
                    terms = self.loss(part, step)
                loss = minimised(terms)
                (loss if share == 1.0 else loss * share).backward()
            yield terms, share
