"""Batch statistics adaptation (Noguchi & Harada 2019): in the nets that draw samples, scale and shift move alone.

What a filter looks for stays as the source left it; how strongly each channel answers is learnt anew. Where a condition
gives that scale and shift, as time does in the flow's residual blocks, the layer that gives them moves: it has no other
task. Running statistics of BatchNorm go on being tracked, being the other half of the same normalisation.

The discriminator of an adversarial pair and the encoder of an autoencoder move as a whole. The paper has neither, but
compares images with images; here they are what teaches the sampling net, and have to tell a domain that their filters
never saw. Knows nothing of optimizers, data or files.
"""

from collections.abc import Collection

from torch import nn

from genxfer.models.family import Family, Modulation
from genxfer.transfer import freeze
from genxfer.transfer.method import Method

NORMALISATIONS = (nn.modules.batchnorm._NormBase, nn.GroupNorm, nn.LayerNorm)


class ScaleShiftMethod(Method):
    """In the sampling nets only scales and shifts move; the other nets move fully."""

    def prepare(self, family: Family, seed: int, n_images: int, fresh: Collection[str] = ()) -> None:
        """Take note of what stays, before ranks that share their statistics have put other modules in the place."""
        nets = [family.nets[name] for name in family.sampling_nets]
        modules = [module for net in nets for module in net.modules()]
        moving = [part for part in modules if isinstance(part, (*NORMALISATIONS, Modulation))]
        kept = {id(parameter) for module in moving for parameter in module.parameters()}
        self.fixed = [parameter for net in nets for parameter in net.parameters() if id(parameter) not in kept]

    def hold(self, family: Family, fixed_groups: dict[str, int]) -> None:
        """Fix what is neither scale nor shift; everything is in training mode, so statistics are tracked."""
        freeze.apply(family, fixed_groups)
        for parameter in self.fixed:
            parameter.requires_grad_(False)
