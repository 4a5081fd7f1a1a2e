"""What the engine may rely on in any method, and the plainest of them: every parameter moves.

A method is built from its config and prepared on the nets once they hold the source model's weights; from then on it
says what moves, may change the latent, may add terms to a phase's loss, and at the end turns the nets into what is
published. All of it is a pure function of the source weights, the seed and the images seen, save the parameters in
`nets`, which the engine trains and checkpoints. Knows nothing of optimizers, data or files.
"""

import importlib
from collections.abc import Collection
from typing import Any

import torch
from torch import Tensor, nn

from genxfer.models.family import Family, Step
from genxfer.noise import Noise
from genxfer.transfer import freeze
from genxfer.transfer.config import MethodConfig


class Method:
    """How a source model is adapted; as it stands: layer groups that the config counts are fixed, all else moves."""

    def __init__(self, config: MethodConfig) -> None:
        self.config: Any = config
        # Trainable modules of the method's own, by the phase whose optimizer moves them; never published.
        self.nets = nn.ModuleDict()

    def prepare(self, family: Family, seed: int, n_images: int, fresh: Collection[str] = ()) -> None:
        """Take note of the source weights that `family` holds, and change its nets where the method needs it.

        `n_images` are there to train on. `fresh` names the tensors that are not the source's, as it has none of that
        shape: they are random still. Called once, before the average and the optimizers are made; again, with the same
        result, when a run resumes.
        """

    def hold(self, family: Family, fixed_groups: dict[str, int]) -> None:
        """Let move what moves while these counts of layer groups are fixed: gradients and training mode, or neither."""
        freeze.apply(family, fixed_groups)

    def latent(self, z: Tensor, noise: Noise) -> Tensor:
        """Return what the generator is given in the family's loss in place of standard normal `z` [N Z]."""
        return z

    def terms(self, family: Family, phase: str, real: Tensor, step: Step) -> dict[str, Tensor]:
        """Return named terms to be minimised beside the family's own in `phase`; those with "~" are only logged.

        They are means over the images of `real` [N C H W], or do not depend on it: micro-batches and ranks add up.
        """
        return {}

    @torch.no_grad()
    def finish(self, family: Family) -> None:
        """Turn the nets back into what the family's config describes, with what was learnt."""

    def files(self, family: Family, parent: str | None, images_seen: int) -> dict[str, bytes]:
        """Return what is published beside the snapshot, by file name, once the method has finished.

        `parent` is the SHA-256 of the source model's weight file, None when training did not start from those
        very weights. `images_seen` is what the snapshot says of itself.
        """
        return {}


def build_method(config: MethodConfig) -> Method:
    """Return the method of `config`."""
    module_name, class_name = config.module.split(":")
    method_class: type[Method] = getattr(importlib.import_module(module_name), class_name)
    return method_class(config)
