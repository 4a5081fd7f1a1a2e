"""Which weights a source model relies on: the diagonal of the empirical Fisher information, from its own samples.

The expected square of the gradient of the loss of a single image (Kirkpatrick et al. 2017; for generators Li et al.
2020, eq. 3). When a model is adapted nobody need have its training images: the model's own samples stand for them. On
a processor the same bits whenever it is asked for the same nets and seed. Knows nothing of penalties.
"""

from collections.abc import Iterator, Mapping

import torch
from torch import Tensor

from genxfer.errors import TrainingError
from genxfer.models.family import Family, Phase, Step, sample
from genxfer.noise import Noise

SAMPLES = 64  # single images whose gradients are squared
LONG_PAST_WARM_UP = 2**62  # images seen, to a family whose objective changes over the first ones


def fisher_information(family: Family, seed: int, samples: int = SAMPLES) -> dict[str, Tensor]:
    """Return the information of each weight that moves in a phase of the sampling nets, of mean 1 over all of them.

    In eval mode, in which `family` is left: statistics of one image are not those that the model was trained under.
    Raises TrainingError where no weight has any: a dead or saturated judge tells the generator nothing.
    """
    family.nets.eval().requires_grad_(True)
    data = sample(family, family.nets, samples, seed).to(next(family.nets.parameters()).device)
    information: dict[str, Tensor] = {}
    for phase in _sampling_phases(family):
        weights = {f"{net}.{name}": p for net in phase.nets for name, p in family.nets[net].named_parameters()}
        information |= _mean_squares(family, phase, weights, data, seed)
    mean = sum(values.double().sum() for values in information.values()) / sum(map(Tensor.numel, information.values()))
    if not mean > 0:  # nor where it is no number
        raise TrainingError(
            "The method 'ewc' holds the weights that the source model relies on, but none moves its loss: over "
            f"{samples} of its own samples the squared gradients have a mean of {mean:g}. Set finetune.method=l2_sp, "
            "which asks for no gradients, or start from another source model."
        )
    return {name: (values / mean).float() for name, values in information.items()}


def _sampling_phases(family: Family) -> Iterator[Phase]:
    """Yield the phases that move what draws samples: the generator's, not the discriminator's."""
    return (phase for phase in family.phases if set(phase.nets) & set(family.sampling_nets))


def _mean_squares(
    family: Family, phase: Phase, weights: Mapping[str, Tensor], data: Tensor, seed: int
) -> dict[str, Tensor]:
    """Return the mean over `data` [N C H W] of the squared gradient of one image's loss."""
    squares = [torch.zeros_like(weight) for weight in weights.values()]
    noise = Noise(torch.Generator(data.device).manual_seed(seed))
    for image in data.split(1):
        step = Step(1, LONG_PAST_WARM_UP, noise)
        terms = family.loss(phase.name, image, step)
        loss = torch.stack([value for name, value in terms.items() if not name.startswith("~")]).sum()
        gradients = torch.autograd.grad(loss, list(weights.values()))
        torch._foreach_addcmul_(squares, gradients, gradients, 1 / len(data))
    return dict(zip(weights, squares, strict=True))
