"""Everything that changes while a run trains: nets, averages, optimizers, running losses, and how far it has come.

`checkpoint()` and `restore()` turn it into named tensors and back, so a resumed run goes on bit by bit. No random state
is among it: each step seeds its own noise. Knows nothing of files or data.
"""

from collections.abc import Iterable

from torch import Tensor

from genxfer.models.family import Family, Phase
from genxfer.training.adam import Adam
from genxfer.training.adaptive import AugmentChance
from genxfer.training.checkpoint import Checkpoint
from genxfer.training.config import TrainConfig
from genxfer.training.distributed import World
from genxfer.training.ema import EMA
from genxfer.training.losses import Losses
from genxfer.training.mixture import mixture_of
from genxfer.training.selection import Scored, Selection
from genxfer.transfer.method import Method


class TrainingState:
    """The state of one run in one process, at first that of the family's present weights."""

    def __init__(self, family: Family, world: World, config: TrainConfig, method: Method) -> None:
        for nets in (family.nets, method.nets):
            nets.to(world.device).to(memory_format=family.memory_format)
            world.share_norms(nets)
        self.family, self.method = family, method
        self.ema = EMA(family)
        self.optimizers = {phase.name: _optimizer(family, phase, method) for phase in family.phases}
        self.losses = Losses(world)
        self.augment_chance = AugmentChance(config, world)
        self.selection = Selection()
        self.images_seen = 0
        self.rollbacks = 0

    def checkpoint(self) -> Checkpoint:
        """Return the whole state by name; the tensors are the live ones, to be written before the next step.

        All ranks have to ask, because each has losses of its own; the rest is the same on all, save what the leader
        fitted for a picture, and fits anew before it is next used.
        """
        tensors = _named("nets.", self.family.nets.state_dict()) | _named("ema.", self.ema.nets.state_dict())
        tensors |= _named("method.", self.method.nets.state_dict())
        for name, optimizer in self.optimizers.items():
            tensors |= _named(f"optimizers.{name}.", optimizer.state())
        tensors |= _named("losses.", self.losses.of_ranks()) | _named("best.", self.selection.weights)
        facts = {
            "loss_counts": dict(self.losses.counts),
            "augment_chance": self.augment_chance.facts(),
            "selection": self.selection.facts(),
            "rollbacks": self.rollbacks,
        }
        return Checkpoint(self.images_seen, tensors, facts)

    def restore(self, checkpoint: Checkpoint) -> None:
        """Take over what `checkpoint()` of an equal run returned; raises RuntimeError when names or shapes differ."""
        tensors = checkpoint.tensors
        for parameter in (*self.family.nets.parameters(), *self.method.nets.parameters()):
            parameter.grad = None
        self.family.nets.load_state_dict(_part("nets.", tensors))
        self.method.nets.load_state_dict(_part("method.", tensors))
        self.ema.nets.load_state_dict(_part("ema.", tensors))
        for name, optimizer in self.optimizers.items():
            optimizer.restore(_part(f"optimizers.{name}.", tensors))
        self.losses.restore(_part("losses.", tensors), checkpoint.facts["loss_counts"])
        self.augment_chance.restore(checkpoint.facts["augment_chance"])
        self.selection.restore(_part("best.", tensors), checkpoint.facts["selection"])
        self.images_seen = checkpoint.images_seen
        self.rollbacks = checkpoint.facts["rollbacks"]

    def fit(self, images: Iterable[Tensor]) -> None:
        """Fit the nets that no gradient moves to all others as they are now, and to training `images`, in batches.

        The averaged nets get copies of them.
        """
        self.family.fit(images, mixture_of)
        for net in self.family.fitted_nets:
            self.ema.nets[net].load_state_dict(self.family.nets[net].state_dict())

    def score(self, kid: float) -> None:
        """Take note of the present moment's validation KID; the best moment's weights are kept."""
        weights = self.family.nets.state_dict() | self.ema.nets.state_dict()
        self.selection.add(Scored(self.images_seen, kid), weights)

    def publish_average(self) -> None:
        """Put the averaged weights into the family's sampling nets: what a snapshot holds."""
        self.family.nets.load_state_dict(self.family.nets.state_dict() | self.ema.nets.state_dict())

    def publish(self) -> int:
        """Put what a snapshot is to hold into the family's nets; return the images seen by then.

        That is the best moment, where there is one: its averaged weights, and all other nets as they were then.
        Otherwise the present averages.
        """
        best = self.selection.best
        if best is None:
            self.publish_average()
            return self.images_seen
        self.family.nets.load_state_dict(self.selection.weights)
        return best.images_seen


def _optimizer(family: Family, phase: Phase, method: Method) -> Adam:
    """Return the optimizer of all parameters of the phase's nets; those that are fixed get no gradient."""
    nets = [(net, family.nets[net]) for net in phase.nets]
    if phase.name in method.nets:
        nets.append(("method", method.nets[phase.name]))
    return Adam({f"{net}.{name}": p for net, module in nets for name, p in module.named_parameters()}, phase.betas)


def _named(prefix: str, tensors: dict[str, Tensor]) -> dict[str, Tensor]:
    return {prefix + name: tensor for name, tensor in tensors.items()}


def _part(prefix: str, tensors: dict[str, Tensor]) -> dict[str, Tensor]:
    return {name.removeprefix(prefix): tensor for name, tensor in tensors.items() if name.startswith(prefix)}
