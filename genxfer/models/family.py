"""What the engine, the transfer methods and the registry may rely on in any family.

A batch arrives as real images [N C H W] in [-1, 1]; a family answers with named loss terms for one phase. It draws
every random number from the noise it is handed, so a step is a pure function of (weights, batch, seed, progress).
Knows nothing of optimizers, files or the pipeline.
"""

import importlib
from abc import ABC, abstractmethod
from collections.abc import Callable
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor, nn

from genxfer.models.config import FamilyConfig
from genxfer.noise import Noise

# Samples are always drawn in chunks of this size, the last one padded, so that an image depends on its seed and its
# place alone: kernels chosen for another batch size would round differently.
SAMPLE_CHUNK = 32


@dataclass(frozen=True)
class ImageShape:
    """The images a family is built for: square, `channels` x `resolution_px` x `resolution_px`."""

    channels: int
    resolution_px: int


@dataclass(frozen=True)
class Phase:
    """One optimizer's turn in a step: which nets it moves, and Adam's betas for them."""

    name: str
    nets: tuple[str, ...]
    betas: tuple[float, float] = (0.9, 0.999)


@dataclass(frozen=True)
class Watch:
    """Loss terms whose sum, averaged over a report, tells that training has come to nothing when it is too small."""

    terms: tuple[str, ...]
    at_least: float
    meaning: str
    advice: str


@dataclass(frozen=True)
class LayerGroup:
    """A block of one network that is frozen or thawed as a whole."""

    name: str
    modules: tuple[nn.Module, ...]


@dataclass(frozen=True)
class Step:
    """Where training stands, and the only source of randomness of one phase of one step."""

    index: int  # 0, 1, ... in this run; lazy terms are taken when it is a multiple of their interval
    images_seen: int
    noise: Noise
    augment: Callable[[Tensor], Tensor]  # the same policy for real and fake images; draws from `noise`
    latent: Callable[[Tensor], Tensor] = lambda z: z  # what a method makes of z [N Z] before the generator sees it


class Modulation(nn.Linear):
    """A layer that gives the scale and shift of each channel from a condition such as the time."""


class Family(ABC):
    """Nets, objective and sampling of one kind of generative model."""

    name: ClassVar[str]
    phases: ClassVar[tuple[Phase, ...]]
    sampling_nets: ClassVar[tuple[str, ...]]  # averaged over training (EMA), published, and enough to draw samples
    memory_format: ClassVar[torch.memory_format] = torch.contiguous_format  # the faster layout, as measured
    watched: ClassVar[tuple[Watch, ...]] = ()
    checked_samples: ClassVar[int] = 64  # drawn to see whether weights were loaded right; fewer where that takes long

    def __init__(self, config: FamilyConfig, shape: ImageShape) -> None:
        config.check_image(shape.resolution_px, shape.channels)
        self.config = config
        self.shape = shape
        self.nets: nn.ModuleDict = nn.ModuleDict()

    def layer_groups(self) -> dict[str, tuple[LayerGroup, ...]]:
        """Return each net's layer groups from the image side to the latent side; every parameter is in exactly one.

        A net's direct children carry the names of its groups, so weights are called `generator.block_16px...` in a
        snapshot and a group needs no table of its own.
        """
        return {
            net: tuple(LayerGroup(name, (self.nets[net].get_submodule(name),)) for name in names)
            for net, names in self.config.layer_groups(self.shape.resolution_px).items()
        }

    @abstractmethod
    def loss(self, phase: str, real: Tensor, step: Step) -> dict[str, Tensor]:
        """Return the named scalar terms whose sum `phase` minimises on `real` [N C H W] in [-1, 1].

        A name that starts with "~" is for the curves only: logged, not minimised (detached).
        """

    @abstractmethod
    def noise(self, n: int, generator: torch.Generator) -> Tensor:
        """Return what `n` samples start from [n ...], drawn one sample after the other from a CPU generator."""

    @abstractmethod
    def decode(self, nets: nn.ModuleDict, noise: Tensor) -> Tensor:
        """Return images [N C H W] in [-1, 1] from `noise`, with `nets` (at least the sampling nets, in eval mode)."""


def build_family(config: FamilyConfig, shape: ImageShape, seed: int = 0) -> Family:
    """Return the family of `config` with weights initialised from `seed`, whatever torch's global state is."""
    module_name, class_name = config.module.split(":")
    family_class: type[Family] = getattr(importlib.import_module(module_name), class_name)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return family_class(config, shape)


@torch.no_grad()
def sample(family: Family, nets: nn.ModuleDict, n: int, seed: int) -> Tensor:
    """Return `n` images [n C H W] in [-1, 1] on the CPU; image i depends on `seed` and i alone, not on `n`."""
    device = next(nets.parameters()).device
    images = []
    for start in range(0, n, SAMPLE_CHUNK):
        generator = torch.Generator().manual_seed(seed * 1_000_003 + start // SAMPLE_CHUNK)
        noise = family.noise(SAMPLE_CHUNK, generator).to(device)
        images.append(family.decode(nets, noise).float().clamp(-1, 1).cpu())
    if not images:
        return torch.empty(0, family.shape.channels, family.shape.resolution_px, family.shape.resolution_px)
    return torch.cat(images)[:n]
