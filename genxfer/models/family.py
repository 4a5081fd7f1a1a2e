"""What the engine, the transfer methods and the registry may rely on in any family.

A batch arrives as real images [N C H W] in [-1, 1]; a family answers with named loss terms for one phase. It draws
every random number from the noise it is handed, so a step is a pure function of (weights, batch, seed, progress).
Knows nothing of optimizers, files or the pipeline.
"""

import importlib
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import ClassVar, Protocol

import torch
from torch import Tensor, nn

from genxfer.models.config import FamilyConfig
from genxfer.noise import Noise

# Samples are always drawn in chunks of this size, the last one padded, so that an image depends on its seed and its
# place alone: kernels chosen for another batch size would round differently.
SAMPLE_CHUNK = 32

_SMALL_SINE = 1e-3  # of an angle below which a great circle is as good as a straight line


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
    fewest_images: int = 1  # of a backward pass: with fewer the terms are not there


@dataclass(frozen=True)
class LayerGroup:
    """A block of one network that is frozen or thawed as a whole."""

    name: str
    modules: tuple[nn.Module, ...]


class Augment(Protocol):
    """Changes images [N C H W], each in its own random way; where they are several sets, each draws in its turn."""

    def __call__(self, images: Tensor, *, sets: int = 1) -> Tensor:
        """Return the images changed."""


class Estimate(Protocol):
    """Estimates a density."""

    def __call__(self, mean: Tensor, log_variance: Tensor, most: int) -> tuple[Tensor, Tensor, Tensor]:
        """Return weights [C], means [C Z], covariances [C Z Z] of normal distributions, C of them and at most `most`.

        Of latents N(mean, exp(log_variance)), both [N Z]. The same for the same ones. Raises ValueError for latents so
        far apart, or so uncertain, that there are none.
        """


def as_they_are(images: Tensor, *, sets: int = 1) -> Tensor:
    """Return `images` themselves: no augmentation."""
    return images


@dataclass(frozen=True)
class Step:
    """Where training stands, and the only source of randomness of one phase of one step."""

    index: int  # 0, 1, ... in this run; lazy terms are taken when it is a multiple of their interval
    images_seen: int
    noise: Noise
    augment: Augment = as_they_are  # the same policy for real and fake images; draws from `noise`
    latent: Callable[[Tensor], Tensor] = lambda z: z  # what a method makes of z [N Z] before the generator sees it


class Modulation(nn.Linear):
    """A layer that gives the scale and shift of each channel from a condition such as the time."""


class Family(ABC):
    """Nets, objective and sampling of one kind of generative model."""

    name: ClassVar[str]
    phases: ClassVar[tuple[Phase, ...]]
    # Averaged over training (EMA), save those that are fitted; published, and enough to draw samples.
    sampling_nets: ClassVar[tuple[str, ...]]
    memory_format: ClassVar[torch.memory_format] = torch.contiguous_format  # the faster layout, as measured
    watched: ClassVar[tuple[Watch, ...]] = ()
    checked_samples: ClassVar[int] = 64  # drawn to see whether weights were loaded right; fewer where that takes long
    fitted_nets: ClassVar[tuple[str, ...]] = ()  # sampling nets without parameters, which `fit` makes

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

    def fit(self, images: Iterable[Tensor], estimate: Estimate) -> None:
        """Make `fitted_nets` from the other nets as they are and training `images`, in batches [N C H W] in [-1, 1].

        A pure function of both, with `estimate` for a density of latents. The other nets and their modes stay as they
        are; nothing changes where training has diverged.
        """
        assert not self.fitted_nets, "a family with nets to be fitted fits them"

    @abstractmethod
    def noise(self, n: int, generator: torch.Generator) -> Tensor:
        """Return the normal noise of `n` samples [n ...], drawn one sample after the other from a CPU generator."""

    def latent(self, nets: nn.ModuleDict, noise: Tensor) -> Tensor:
        """Return what `noise` [N ...] stands for in the space that samples start from and ways are taken in [N ...]."""
        return noise

    @abstractmethod
    def decode(self, nets: nn.ModuleDict, latent: Tensor) -> Tensor:
        """Return images [N C H W] in [-1, 1] of `latent`, with `nets` (at least the sampling nets, in eval mode)."""


def build_family(config: FamilyConfig, shape: ImageShape, seed: int = 0) -> Family:
    """Return the family of `config` with weights initialised from `seed`, whatever torch's global state is."""
    module_name, class_name = config.module.split(":")
    family_class: type[Family] = getattr(importlib.import_module(module_name), class_name)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return family_class(config, shape)


@contextmanager
def evaluating(net: nn.Module) -> Iterator[None]:
    """Hold all of `net` in eval mode; afterwards each module is in the mode that it was in, frozen groups too."""
    modes = [(module, module.training) for module in net.modules()]
    net.eval()
    try:
        yield
    finally:
        for module, training in modes:
            module.training = training


def sample(family: Family, nets: nn.ModuleDict, n: int, seed: int) -> Tensor:
    """Return `n` images [n C H W] in [-1, 1] on the CPU; image i depends on `seed` and i alone, not on `n`."""
    return sample_at(family, nets, range(n), seed)


def sample_at(family: Family, nets: nn.ModuleDict, places: Sequence[int], seed: int) -> Tensor:
    """Return the images [P C H W] at `places` among those of `sample`, the same bits, without drawing all of them."""
    images = torch.empty(len(places), family.shape.channels, family.shape.resolution_px, family.shape.resolution_px)
    wanted: dict[int, list[int]] = {}
    for i, place in enumerate(places):
        wanted.setdefault(place // SAMPLE_CHUNK, []).append(i)
    for chunk, rows in wanted.items():
        drawn = _decode(family, nets, chunk_latent(family, nets, chunk, seed))
        images[rows] = drawn[[places[i] % SAMPLE_CHUNK for i in rows]]
    return images


def interpolate(family: Family, nets: nn.ModuleDict, rows: int, steps: int, seed: int) -> Tensor:
    """Return images [rows steps C H W] in [-1, 1] on the CPU: row r goes from sample 2r to sample 2r + 1 of `seed`.

    At most 16 rows.
    """
    latents = ways(chunk_latent(family, nets, 0, seed)[: 2 * rows], steps).flatten(0, 1)
    chunks = [_decode(family, nets, part) for part in latents.split(SAMPLE_CHUNK)]
    return torch.cat(chunks).unflatten(0, (rows, steps))


def ways(latents: Tensor, steps: int) -> Tensor:
    """Return latents [R steps ...]: row r goes from that of `latents` [2R ...] at 2r to that at 2r + 1 by `slerp`.

    In equal steps, at least two: the ends.
    """
    ends = latents.unflatten(0, (-1, 2))
    return torch.stack([slerp(ends[:, 0], ends[:, 1], step / (steps - 1)) for step in range(steps)], dim=1)


def slerp(a: Tensor, b: Tensor, share: float) -> Tensor:
    """Return what lies at `share`, 0 to 1, of the way from latent `a` [N ...] to `b` [N ...] along a great circle.

    On the straight line, the norm would fall to 0.7 of what the nets were trained on (White 2016, section 3.1;
    Shoemake 1985). The straight line only where the two point the same way, or opposite ways. At 0 and 1 the latents
    themselves.
    """
    if share in (0, 1):
        return b if share else a
    cosine = nn.functional.cosine_similarity(a.flatten(1), b.flatten(1)).clamp(-1, 1)
    angle = cosine.acos().view(-1, *[1] * (a.ndim - 1))
    curved = (((1 - share) * angle).sin() * a + (share * angle).sin() * b) / angle.sin().clamp_min(_SMALL_SINE)
    return torch.where(angle.sin() > _SMALL_SINE, curved, (1 - share) * a + share * b)


def chunk_noise(family: Family, chunk: int, seed: int) -> Tensor:
    """Return the noise of the samples of `seed` [SAMPLE_CHUNK ...], those of chunk 0, 1, ...; on the CPU."""
    return family.noise(SAMPLE_CHUNK, torch.Generator().manual_seed(seed * 1_000_003 + chunk))


@torch.no_grad()
def chunk_latent(family: Family, nets: nn.ModuleDict, chunk: int, seed: int) -> Tensor:
    """Return the latents [SAMPLE_CHUNK ...] of `chunk_noise`, on the device of `nets`."""
    return family.latent(nets, chunk_noise(family, chunk, seed).to(next(nets.parameters()).device))


@torch.no_grad()
def _decode(family: Family, nets: nn.ModuleDict, latent: Tensor) -> Tensor:
    """Return the images [n C H W] of `latent` [n ...], at most SAMPLE_CHUNK; the chunk is filled up by repetition."""
    n = len(latent)
    if n < SAMPLE_CHUNK:
        latent = torch.cat([latent, latent[:1].expand(SAMPLE_CHUNK - n, *latent.shape[1:])])
    return family.decode(nets, latent).float().clamp(-1, 1).cpu()[:n]
