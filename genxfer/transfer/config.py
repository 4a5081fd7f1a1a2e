"""The methods as data, read without importing torch: which there are, what each can be told, and for whom it is.

A method is one word in the section `finetune` of params.yaml; its numbers are keys beside it. Each has a config class
here and, in the file that `module` names, what it does to nets and losses. Layer groups are counted from the image
side, as in FreezeD (Mo et al. 2020). Knows nothing of nets.
"""

from collections.abc import Mapping, Sequence
from typing import Any, ClassVar, Literal, get_args

from pydantic import Field, NonNegativeInt, PositiveInt

from genxfer.checked import Checked
from genxfer.errors import ParameterError, TrainingError, nearest
from genxfer.models.config import FamilyConfig

MOVE_ALL = "finetune.method to one that moves them, such as full"

LayerGroups = Mapping[str, Sequence[str]]  # of each net, from the image side to the latent side


class MethodConfig(Checked):
    """What every method has; each adds its own keys, which are keys of the section `finetune`."""

    module: ClassVar[str] = "genxfer.transfer.method:Method"  # imported only when something must be computed
    explained: ClassVar[str]  # in a line, for people
    lr_factor: ClassVar[float] = 1.0  # of the learning rate that a family recommends for fine-tuning
    new_groups: ClassVar[tuple[str, ...]] = ()  # "net.group" that the source model need not have
    moves_filters: ClassVar[bool] = True  # False: in the nets that draw samples, only scale and shift ever move
    draws_source: ClassVar[bool] = False  # True: it looks at samples of the source model, whose nets must be whole

    method: str

    @classmethod
    def unfit(cls, family: FamilyConfig, layer_groups: LayerGroups) -> str | None:
        """Return why this method makes no sense for `family`, None where it does."""
        return None

    def check(self, layer_groups: LayerGroups) -> None:
        """Raise ParameterError when the method's numbers do not fit nets with these layer groups."""

    def family_config(self, family: FamilyConfig) -> FamilyConfig:
        """Return the config of the family to be trained, where the source model's is `family`."""
        return family

    def fixed_groups(self, images_seen: int) -> dict[str, int]:
        """Return how many layer groups of each net are fixed once `images_seen` images were seen.

        Counted from the image side; a negative number fixes all but so many.
        """
        return {}

    def why_fixed(self, net: str, place: int, images_seen: int) -> tuple[str, str]:
        """Return what fixes the layer group at `place` of `net`, and what to set so that it moves by `images_seen`."""
        return f"finetune.method is {self.method!r}", MOVE_ALL

    def said_of_moves(self, images_seen: int) -> str:
        """Return what has to be said beside the count of what moves at the start of a fine-tuning; mostly nothing.

        The last step of that fine-tuning began after `images_seen` images.
        """
        return ""


class Full(MethodConfig):
    """Every parameter moves."""

    explained: ClassVar[str] = "every parameter moves"

    method: Literal["full"] = "full"


class Freeze(MethodConfig):
    """Layer groups of any net stay fixed."""

    explained: ClassVar[str] = "the layer groups that finetune.freeze counts stay fixed, the others move"

    method: Literal["freeze"] = "freeze"
    freeze: dict[str, NonNegativeInt] = Field(default={}, description="Layer groups of each net that stay fixed.")

    def check(self, layer_groups: LayerGroups) -> None:
        """Raise ParameterError unless the counts fit the nets, fix something and leave something to move."""
        check_counts(self.freeze, layer_groups)
        if not self.fixed_groups(0):
            nets = ", ".join(f"{net}: 0 to {len(names)}" for net, names in layer_groups.items())
            raise ParameterError(
                f"finetune.method is 'freeze' and finetune.freeze is {self.freeze}, so nothing stays fixed. Say how "
                f"many layer groups of which net do ({nets}), such as -S finetune.freeze.{next(iter(layer_groups))}=1, "
                "or set finetune.method=full."
            )

    def fixed_groups(self, images_seen: int) -> dict[str, int]:
        """Return the counts, whenever."""
        return {net: count for net, count in self.freeze.items() if count}

    def why_fixed(self, net: str, place: int, images_seen: int) -> tuple[str, str]:
        """Return the count."""
        return f"finetune.freeze.{net} is {self.freeze[net]}", f"finetune.freeze.{net}={place}"


class FreezeNet(MethodConfig):
    """Layer groups of one net of an adversarial pair stay fixed."""

    net: ClassVar[str]

    layers: NonNegativeInt = Field(default=1, description="Layer groups that stay fixed, from the image side.")

    @classmethod
    def unfit(cls, family: FamilyConfig, layer_groups: LayerGroups) -> str | None:
        """Say that the family lacks the net, when it does."""
        if cls.net in layer_groups:
            return None
        return f"it has no {cls.net}, its nets are {' and '.join(layer_groups)}, of which 'freeze' can fix layer groups"

    def check(self, layer_groups: LayerGroups) -> None:
        """Raise ParameterError unless the net has so many groups."""
        names = layer_groups[self.net]
        if self.layers > len(names):
            raise ParameterError(
                f"finetune.layers is {self.layers}; allowed: 0 to {len(names)} "
                f"(the layer groups of the {self.net} from the image side: {', '.join(names)})."
            )

    def fixed_groups(self, images_seen: int) -> dict[str, int]:
        """Return the count, whenever."""
        return {self.net: self.layers} if self.layers else {}

    def why_fixed(self, net: str, place: int, images_seen: int) -> tuple[str, str]:
        """Return the one key that there is."""
        return f"finetune.layers is {self.layers}", f"finetune.layers={place}"


class FreezeD(FreezeNet):
    """FreezeD (Mo et al. 2020): the discriminator's layers next to the image stay as the source left them."""

    explained: ClassVar[str] = "the discriminator's layers next to the image stay fixed (Mo et al. 2020)"
    net: ClassVar[str] = "discriminator"

    method: Literal["freeze_d"] = "freeze_d"


class FreezeG(FreezeNet):
    """The generator's layers next to the image stay as the source left them."""

    explained: ClassVar[str] = "the generator's layers next to the image stay fixed"
    net: ClassVar[str] = "generator"

    method: Literal["freeze_g"] = "freeze_g"


class Gradual(MethodConfig):
    """Gradual thawing (Howard & Ruder 2018): fixed layer groups start to move one after the other."""

    explained: ClassVar[str] = "layer groups start to move one after the other, from the latent side on"

    method: Literal["gradual"] = "gradual"
    freeze: dict[str, NonNegativeInt] = Field(default={}, description="Layer groups of each net that start fixed.")
    thaw_every_kimg: float = Field(default=1.0, gt=0, description="One group of each net thaws every so many kimg.")

    def check(self, layer_groups: LayerGroups) -> None:
        """Raise ParameterError unless the counts fit the nets and leave something to move."""
        check_counts(self.freeze, layer_groups)

    def fixed_groups(self, images_seen: int) -> dict[str, int]:
        """Return the counts, less one for every `thaw_every_kimg`.

        The group nearest to the moving part thaws first, in all nets at once: it fits what has already moved best.
        """
        thawed = self._thawed(images_seen)
        return {net: count - thawed for net, count in self.freeze.items() if count > thawed}

    def why_fixed(self, net: str, place: int, images_seen: int) -> tuple[str, str]:
        """Return how often a group thaws, and how often one has to; where no step is left for that, the count."""
        cause = f"finetune.thaw_every_kimg is {self.thaw_every_kimg:g}"
        every_images = images_seen // (self.freeze[net] - place)
        if not every_images:
            return f"finetune.freeze.{net} is {self.freeze[net]} and {cause}", f"finetune.freeze.{net}={place}"
        return cause, f"finetune.thaw_every_kimg={every_images / 1000:g}"

    def said_of_moves(self, images_seen: int) -> str:
        """Say what happened later."""
        if not self._thawed(images_seen):
            return ""
        return f"One more group was thawed every {self.thaw_every_kimg:g} kimg: this is how it began."

    def _thawed(self, images_seen: int) -> int:
        return images_seen // max(round(self.thaw_every_kimg * 1000), 1)


class ScaleShift(MethodConfig):
    """Batch statistics adaptation (Noguchi & Harada 2019): filters stay, how much of each is used changes."""

    module: ClassVar[str] = "genxfer.transfer.scale_shift:ScaleShiftMethod"
    explained: ClassVar[str] = "of the nets that draw samples, the scale and shift of normalised channels move alone"

    moves_filters: ClassVar[bool] = False

    method: Literal["scale_shift"] = "scale_shift"

    @classmethod
    def unfit(cls, family: FamilyConfig, layer_groups: LayerGroups) -> str | None:
        """Say that there is nothing to scale and shift, where there is not."""
        if family.normalised:
            return None
        return "its nets have no normalisation layers, of which 'scale_shift' moves the scale and shift"


class Lora(MethodConfig):
    """Low-rank adaptation (Hu et al. 2022): every matrix is the source's plus a product of two thin ones."""

    module: ClassVar[str] = "genxfer.transfer.lora:LoraMethod"
    explained: ClassVar[str] = "matrices stay and get low-rank adapters, merged in the end (Hu et al. 2022)"
    lr_factor: ClassVar[float] = 3.0  # EXPERIMENTS.md: below it learns slowly, at 10 it falls apart

    method: Literal["lora"] = "lora"
    rank: PositiveInt = Field(default=8, description="Rank of the change of each matrix.")
    alpha: float = Field(default=8.0, gt=0, description="The change is scaled by alpha / rank.")

    def said_of_moves(self, images_seen: int) -> str:
        """Say what becomes of what moved."""
        return "Adapters beside the fixed matrices moved; in what is published they are merged into these."


class Miner(MethodConfig):
    """MineGAN (Wang et al. 2020): a small net learns which latents of the generator show the target."""

    explained: ClassVar[str] = "a small net learns which latents of the fixed generator to draw (Wang et al. 2020)"
    new_groups: ClassVar[tuple[str, ...]] = ("generator.miner",)

    method: Literal["miner"] = "miner"
    miner_width: int = Field(default=128, ge=1, le=8192, description="Hidden units of the miner.")
    thaw_after_kimg: float | None = Field(
        default=None, gt=0, description="Everything moves after so many kimg, MineGAN's second step; None: never."
    )

    @classmethod
    def unfit(cls, family: FamilyConfig, layer_groups: LayerGroups) -> str | None:
        """Say that the family lacks a generator with a latent and a discriminator, when it does."""
        if "miner_width" in type(family).model_fields:
            return None
        nets = " and ".join(layer_groups)
        return f"a discriminator has to teach a miner which latents of a generator to choose, and its nets are {nets}"

    def family_config(self, family: FamilyConfig) -> FamilyConfig:
        """Return `family` with a miner; a source model that has one goes on with its own."""
        if getattr(family, "miner_width", 0):
            return family
        return family.model_copy(update={"miner_width": self.miner_width})

    def fixed_groups(self, images_seen: int) -> dict[str, int]:
        """Fix all of the generator but its miner, until it is time to thaw."""
        return {} if self._thawed(images_seen) else {"generator": -1}

    def why_fixed(self, net: str, place: int, images_seen: int) -> tuple[str, str]:
        """Return when everything thaws, and by when it has to; where it never does, or no step is left, the method."""
        if self.thaw_after_kimg is None or not images_seen:
            return super().why_fixed(net, place, images_seen)
        return (
            f"finetune.thaw_after_kimg is {self.thaw_after_kimg:g}",
            f"finetune.thaw_after_kimg={images_seen / 1000:g}",
        )

    def said_of_moves(self, images_seen: int) -> str:
        """Say what happened later, if anything did."""
        if not self._thawed(images_seen):
            return ""
        return f"Everything moved after {self.thaw_after_kimg:g} kimg: this is how it began."

    def _thawed(self, images_seen: int) -> bool:
        return self.thaw_after_kimg is not None and images_seen >= self.thaw_after_kimg * 1000


class SourcePenalty(MethodConfig):
    """Every parameter moves, and a term of its own weighs how far the adapted model has left the source model.

    The defaults suit losses of about 1, as of `dcgan`; an autoencoder's is in nats of a whole image, hundreds.
    """

    strength: float = Field(default=0.001, ge=0, description="Weight of the term that keeps near the source model.")


class L2SP(SourcePenalty):
    """L2-SP (Li et al. 2018): a penalty on the squared distance from the source model's weights."""

    module: ClassVar[str] = "genxfer.transfer.l2_sp:L2SP"
    explained: ClassVar[str] = "every parameter moves, pulled back to where the source left it (Li et al. 2018)"

    method: Literal["l2_sp"] = "l2_sp"


class EWC(SourcePenalty):
    """Elastic weight consolidation (Kirkpatrick et al. 2017; for generators Li et al. 2020): weighed by Fisher."""

    module: ClassVar[str] = "genxfer.transfer.ewc:EWC"
    explained: ClassVar[str] = "every parameter moves, pulled back by how much the source relies on it (Li et al. 2020)"
    draws_source: ClassVar[bool] = True

    method: Literal["ewc"] = "ewc"


class CDC(SourcePenalty):
    """Cross-domain correspondence (Ojha et al. 2021): the images of a few z keep their distances from each other."""

    module: ClassVar[str] = "genxfer.transfer.cdc:CDC"
    explained: ClassVar[str] = "images of different z stay as alike as the source made them (Ojha et al. 2021)"
    draws_source: ClassVar[bool] = True

    method: Literal["cdc"] = "cdc"
    strength: float = Field(default=10.0, ge=0, description="Weight of the distances' consistency.")

    @classmethod
    def unfit(cls, family: FamilyConfig, layer_groups: LayerGroups) -> str | None:
        """Say that the family has no latent, when it has none."""
        if "latent_dim" in type(family).model_fields:
            return None
        return "its samples start from noise of an image's size, not from a latent z that one net maps layer by layer"


# The place to add a method of one's own to.
AnyMethodConfig = Full | Freeze | FreezeD | FreezeG | Gradual | ScaleShift | Lora | L2SP | EWC | CDC | Miner
MethodName = Literal[
    "full", "freeze", "freeze_d", "freeze_g", "gradual", "scale_shift", "lora", "l2_sp", "ewc", "cdc", "miner"
]

METHODS: dict[str, type[MethodConfig]] = {
    config.model_fields["method"].default: config for config in get_args(AnyMethodConfig)
}

METHOD_KEYS = tuple(dict.fromkeys(key for config in METHODS.values() for key in config.model_fields if key != "method"))


def gradual_defaults(layer_groups: LayerGroups, kimg: float) -> dict[str, Any]:
    """Return what `gradual` is told by default: all groups but one start fixed, and all move by half the budget."""
    counts = {net: len(names) - 1 for net, names in layer_groups.items()}
    return {"freeze": counts, "thaw_every_kimg": kimg / 2 / max(max(counts.values()), 1)}


def method_config(values: Mapping[str, Any]) -> MethodConfig:
    """Return the config of `values["method"]`; raises ParameterError for a key that this method does not have."""
    config = METHODS[values["method"]]
    for key, value in values.items():
        if key not in config.model_fields:
            owners = [name for name, other in METHODS.items() if key in other.model_fields]
            raise ParameterError(
                f"finetune.{key} is {value}, but finetune.method {values['method']!r} has no {key!r}: "
                f"{config.explained}. Methods that have it: {', '.join(owners)}. Set finetune.method to one of them, "
                f"or finetune.{key}=auto."
            )
    return config.model_validate(values)


def check_method(method: MethodConfig, family: FamilyConfig, resolution_px: int) -> None:
    """Raise ParameterError when `method` is not for `family`, saying why, or its numbers do not fit the nets."""
    layer_groups = family.layer_groups(resolution_px)
    why_not = method.unfit(family, layer_groups)
    if why_not is not None:
        fitting = fitting_methods(family, resolution_px)
        raise ParameterError(
            f"finetune.method is {method.method!r}, which is not for family {family.family!r}: {why_not}. "
            f"Methods for it: auto, {', '.join(fitting)}."
        )
    method.check(layer_groups)


def fitting_methods(family: FamilyConfig, resolution_px: int) -> list[str]:
    """Return the names of the methods that make sense for `family`."""
    layer_groups = family.layer_groups(resolution_px)
    return [name for name, config in METHODS.items() if config.unfit(family, layer_groups) is None]


def check_counts(counts: Mapping[str, int], layer_groups: LayerGroups) -> None:
    """Raise ParameterError unless `counts` fit nets with these layer groups and leave something to move."""
    for net, count in counts.items():
        if net not in layer_groups:
            known = ", ".join(layer_groups)
            raise ParameterError(
                f"finetune.freeze.{net} is {count}, but this family has no net {net!r}; "
                f"its nets: {known}.{nearest(net, layer_groups)}"
            )
        names = layer_groups[net]
        if count > len(names):
            raise ParameterError(
                f"finetune.freeze.{net} is {count}; allowed: 0 to {len(names)} "
                f"(the layer groups from the image side: {', '.join(names)})."
            )
    if all(counts.get(net, 0) == len(names) for net, names in layer_groups.items()):
        raise ParameterError(
            f"finetune.freeze is {dict(counts)}: nothing is left to move. Let at least one layer group move."
        )


def check_family(family: str, source: Mapping[str, Any]) -> None:
    """Raise TrainingError when the source model that snapshot.json describes as `source` is not of `family`."""
    if source.get("family") != family:
        raise TrainingError(
            f"The source model is of the family {source.get('family')!r}, model.family is {family!r}: the weights of "
            f"one mean nothing to the other. Set model.family={source.get('family')}, or start from a snapshot of the "
            f"family {family!r}."
        )
