"""Low-rank adaptation (Hu et al. 2022): a matrix stays as the source left it, and a product of two thin ones is added.

Every convolution and linear layer of every net has an adapter. A discriminator that stood still would judge the target
by the source, and one that moves freely would be all that is worth saving: few-shot adaptation of both nets by few
numbers has been shown for GANs too (FSGAN, Robb et al. 2020; AdAM, Zhao et al. 2022). Vectors (biases, the scale and
shift of normalisation layers) move themselves: an adapter of rank 1 would be as large. So does a matrix than which its
adapter would be no smaller, such as a single logit's, and one that did not come from the source.

One factor starts at zero, so training starts from the source model itself. The change is added to the weight, not to
the layer's output: what is trained is what is merged in the end, with the tensors of the family's own names and shapes.
torch.nn.utils.parametrize, by which this is done, is imported with torch in any case, and needs no compiler. Knows
nothing of optimizers, data or files.
"""

from collections.abc import Collection
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.utils import parametrize

from genxfer.errors import ParameterError
from genxfer.models.family import Family
from genxfer.transfer import freeze
from genxfer.transfer.adapter import DOWN, SCHEMA, UP, Adapter, as_weight, matrix_shape, merged_weight
from genxfer.transfer.method import Method

ADAPTED = (nn.Conv2d, nn.ConvTranspose2d, nn.Linear)


class LowRank(nn.Module):
    """weight -> weight + scale * up @ down, for a weight read as a matrix of outputs and what each sums over."""

    def __init__(self, weight: Tensor, rank: int, scale: float, transposed: bool, generator: torch.Generator) -> None:
        super().__init__()
        rows, columns = matrix_shape(weight, transposed=transposed)
        self.scale, self.transposed = scale, transposed
        self.up = nn.Parameter(torch.zeros(rows, rank))
        self.down = nn.Parameter(torch.randn(rank, columns, generator=generator) / columns**0.5)

    def forward(self, weight: Tensor) -> Tensor:
        """Return the adapted weight, in float32 even under autocast: bf16 would lose a small change in a large sum."""
        with torch.autocast(weight.device.type, enabled=False):
            change = self.up @ self.down
        return weight + self.scale * as_weight(change, weight, transposed=self.transposed)


class LoraMethod(Method):
    """Adapters on every net; merged in the end, and published beside the snapshot."""

    def prepare(self, family: Family, seed: int, n_images: int, fresh: Collection[str] = ()) -> None:
        """Put an adapter on each layer whose weight is larger than that, unless it is `fresh` and moves itself.

        Raises ParameterError when there is no such layer.
        """
        rank, generator = self.config.rank, torch.Generator().manual_seed(seed)
        self.layers: dict[str, nn.Module] = {}  # by the name of the adapted weight
        for name, layer in list(family.nets.named_modules()):
            if not isinstance(layer, ADAPTED) or f"{name}.weight" in fresh:
                continue
            transposed = isinstance(layer, nn.ConvTranspose2d)
            rows, columns = matrix_shape(layer.weight, transposed=transposed)
            if rank * (rows + columns) < rows * columns:
                low_rank = LowRank(layer.weight, rank, self.config.alpha / rank, transposed, generator)
                parametrize.register_parametrization(layer, "weight", low_rank)
                self.layers[f"{name}.weight"] = layer
        if not self.layers:
            raise ParameterError(
                f"finetune.rank is {rank}, but no weight of these nets is larger than an adapter of that rank. "
                "Set a smaller finetune.rank, or finetune.method=full."
            )

    def hold(self, family: Family, fixed_groups: dict[str, int]) -> None:
        """Fix the weights that have an adapter; all else moves."""
        freeze.apply(family, fixed_groups)
        for layer in self.layers.values():
            _parts(layer)[0].requires_grad_(False)

    @torch.no_grad()
    def finish(self, family: Family) -> None:
        """Merge the adapters into the weights and take them away, keeping the factors for `files`."""
        self.factors: dict[str, Tensor] = {}
        for name, layer in self.layers.items():
            weight, low_rank = _parts(layer)
            up, down = low_rank.up.detach().cpu(), low_rank.down.detach().cpu()
            merged = merged_weight(weight.detach().cpu(), up, down, low_rank.scale, transposed=low_rank.transposed)
            parametrize.remove_parametrizations(layer, "weight", leave_parametrized=False)
            weight.copy_(merged)
            self.factors |= {name + UP: up, name + DOWN: down}

    def files(self, family: Family, parent: str | None, images_seen: int) -> dict[str, bytes]:
        """Return the adapter's two files: factors, and whatever else the nets hold."""
        others = {name: tensor for name, tensor in family.nets.state_dict().items() if name not in self.layers}
        layouts = {name: {"transposed": isinstance(layer, nn.ConvTranspose2d)} for name, layer in self.layers.items()}
        description = {
            "schema": SCHEMA,
            "parent": parent,
            "model": family.config.model_dump(mode="json"),
            "images_seen": images_seen,
            "rank": self.config.rank,
            "alpha": self.config.alpha,
            "adapted": layouts,
            "whole": sorted(others),
        }
        whole = {name: tensor.detach().cpu().contiguous() for name, tensor in others.items()}
        return Adapter(self.factors | whole, description).files()


def _parts(layer: nn.Module) -> tuple[nn.Parameter, LowRank]:
    """Return the source's weight of an adapted layer, and its adapter."""
    parametrized: Any = layer.get_submodule("parametrizations.weight")
    return parametrized.original, parametrized[0]
