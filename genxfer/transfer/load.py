"""Take over the weights of a source model into a model that may differ from it in channels, resolution or width.

Tensors of the same name and shape are copied, the layers next to the image are converted between gray and colour, and
all others keep their fresh weights and are listed: the LoadReport says how much of the model is not noise. Blocks are
named by their size, so models of two resolutions share the inner ones. Works on plain weights by name; knows nothing of
files, optimizers, or of when a model is loaded.
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import torch
from pydantic import ValidationError
from torch import Tensor, nn

from genxfer.errors import TrainingError
from genxfer.models.config import ConvolutionalConfig, family_config
from genxfer.models.family import Family, Modulation, build_family
from genxfer.transfer.config import MOVE_ALL, MethodConfig, check_family

GRAY, COLOUR = 1, 3  # channels
# Of red, green and blue in a gray value (ITU-R BT.601): as Pillow converts, and so as gray training images are made.
LUMA = (0.299, 0.587, 0.114)
LISTED_NAMES = 6  # of a long list of names in a message


@dataclass(frozen=True)
class NetShare:
    """How many of the values of one net (weights, and the statistics of normalisation) were taken over."""

    net: str
    values: int
    taken_over: int


@dataclass(frozen=True)
class OtherShape:
    """A tensor that both models have, in shapes that do not fit."""

    name: str
    source: tuple[int, ...]
    model: tuple[int, ...]

    def __str__(self) -> str:
        return f"{self.name} (snapshot {list(self.source)}, model {list(self.model)})"


@dataclass(frozen=True)
class LoadReport:
    """What became of every tensor of the model and of the source model."""

    nets: tuple[NetShare, ...]
    matched: tuple[str, ...]  # copied
    converted: tuple[str, ...]  # between gray and colour
    missing: tuple[str, ...]  # in the source model
    other_shape: tuple[OtherShape, ...]
    unused: tuple[str, ...]  # of the source model
    new: tuple[str, ...] = ()  # what the source model need not have, or in this shape; not counted

    @property
    def share(self) -> float:
        """Which part of the model's values was taken over, 0 to 1."""
        return sum(net.taken_over for net in self.nets) / sum(net.values for net in self.nets)

    @property
    def fresh(self) -> tuple[str, ...]:
        """The tensors of the model that are as they were drawn; those that the method adds are not among them."""
        return (*self.missing, *(tensor.name for tensor in self.other_shape))

    @property
    def exact(self) -> bool:
        """Whether the model is the source model to the last tensor."""
        return not (self.converted or self.missing or self.other_shape or self.unused)

    def facts(self) -> dict[str, Any]:
        """Return it as JSON, with the share."""
        return {"share": self.share, **asdict(self)}

    def misfits(self) -> list[str]:
        """Return one line for each kind of tensor that was not simply copied."""
        kinds: dict[str, Sequence[object]] = {
            "between gray and colour": self.converted,
            "missing in the snapshot": self.missing,
            "unknown to the model": self.unused,
            "of another shape": self.other_shape,
        }
        return [f"  {len(tensors)} {kind}: {listed(tensors)}" for kind, tensors in kinds.items() if tensors]

    def __str__(self) -> str:
        """Return a few lines for people: the share of each net, and what does not fit."""
        values = sum(net.values for net in self.nets)
        nets = ", ".join(f"{net.net} {percent(net.taken_over / net.values)}" for net in self.nets)
        return "\n".join([f"{percent(self.share)} of {values:,} values ({nets})", *self.misfits()])


def compare(family: Family, weights: Mapping[str, Tensor], new_groups: Sequence[str] = ()) -> LoadReport:
    """Return what `take_over` would do with `weights` of the same family; changes nothing.

    What is fitted, not learnt, counts as new where it is not there in the same shape, and is in no share.
    """
    state = family.nets.state_dict()
    added, fitted = (tuple(f"{name}." for name in names) for names in (new_groups, family.fitted_nets))
    new = tuple(
        name
        for name, tensor in state.items()
        if (name not in weights and name.startswith(added))
        or (name.startswith(fitted) and (name not in weights or weights[name].shape != tensor.shape))
    )
    wanted = {name: tensor for name, tensor in state.items() if name not in new}
    both = [name for name in wanted if name in weights]
    matched = tuple(name for name in both if wanted[name].shape == weights[name].shape)
    converted = tuple(name for name in both if _image_side(family, name, weights[name], wanted[name]))
    taken = {*matched, *converted}
    return LoadReport(
        tuple(_net_share(net, wanted, taken) for net in family.nets if net not in family.fitted_nets),
        matched,
        converted,
        tuple(name for name in wanted if name not in weights),
        tuple(OtherShape(n, tuple(weights[n].shape), tuple(wanted[n].shape)) for n in both if n not in taken),
        tuple(name for name in weights if name not in state),
        new,
    )


def take_over(
    family: Family, weights: Mapping[str, Tensor], source: Mapping[str, Any], new_groups: Sequence[str] = ()
) -> LoadReport:
    """Copy or convert all of `weights` that fits into the family's nets, leave the rest as it is, and say which.

    `source` is what snapshot.json says of the weights: `family`, `model`, `channels`, `resolution_px`. The source model
    need not have `new_groups`, such as "generator.miner". Raises TrainingError for weights of another family.

    A gray model made a colour one draws its gray images in all three channels, and answers a gray image as it did; a
    colour model made a gray one answers a gray image as it did all three channels, and draws the gray version of what
    it drew. To the rounding of a sum, with two exceptions: a squashed output (tanh, sigmoid) is weighted before it is
    squashed, which is the same where the colours agree; and a flow's noise differs from channel to channel, so that
    its samples are others, though its velocity at gray points is the same.
    """
    check_family(family.config.family, source)
    report = compare(family, weights, new_groups)
    state = family.nets.state_dict()
    with torch.no_grad():
        for name in report.matched:
            state[name].copy_(weights[name])
        for name in report.converted:
            state[name].copy_(_converted(family, name, weights[name], state[name]))
    return report


def check_enough(
    report: LoadReport, least: float, family: Family, weights: Mapping[str, Tensor], source: Mapping[str, Any]
) -> None:
    """Raise TrainingError, with what to change, when less than the share `least` was taken over."""
    if report.share >= least:
        return
    raise TrainingError(
        f"Too little of the source model fits: {report}\n{percent(report.share)} is less than finetune.min_taken_over "
        f"= {least:g}: training would start from noise.\n{_advice(report, family, weights, source)}To train all the "
        f"same, set finetune.min_taken_over={int(report.share * 100) / 100:g}."
    )


def check_fixed(report: LoadReport, family: Family, method: MethodConfig, last_step: int) -> None:
    """Raise TrainingError when `method` lets no layer group, or filters, move that were not all taken over.

    That is, not until `last_step`, the images seen when the last step begins.
    """
    counts = method.fixed_groups(last_step)
    for net, groups in family.config.layer_groups(family.shape.resolution_px).items():
        fixed = groups[: counts.get(net, 0)]
        for place, group in enumerate(groups):
            new = [name for name in report.fresh if name.startswith(f"{net}.{group}.")]
            if new and group in fixed:
                (cause, remedy), held = method.why_fixed(net, place, last_step), f"the layer group {group!r}"
            elif not method.moves_filters and any(_is_filter(family, name) for name in new):
                cause, remedy = f"finetune.method is {method.method!r}", MOVE_ALL
                held = f"the filters of the layer group {group!r}"
            else:
                continue
            raise TrainingError(
                f"{cause}, which holds {held} of the {net} fixed to the end; but not all of that group was taken over "
                f"from the source model, and random weights would never move:\n{report}\nSet {remedy}."
            )


def check_whole(report: LoadReport, family: Family, method: MethodConfig) -> None:
    """Raise TrainingError when `method` looks at samples of the source model, and what draws them is not all there."""
    if method.draws_source and any(name.split(".")[0] in family.sampling_nets for name in report.fresh):
        raise TrainingError(
            f"finetune.method is {method.method!r}, which looks at samples of the source model as it was loaded; but "
            f"what draws them was not all taken over, so they would be noise:\n{report}\n"
            "Set finetune.method to one that looks at weights alone, such as l2_sp or full."
        )


def best_size(
    family: Family, weights: Mapping[str, Tensor], source: Mapping[str, Any]
) -> tuple[dict[str, int | None], float]:
    """Return the `width`, and `max_channels` where another helps, at which most would be taken over, and the share.

    Tried are the source model's width times a power of two, and its largest number of channels.
    """
    own, there = family.config, family_config(source["model"])
    sizes: list[dict[str, int | None]] = [
        {"width": width} for width in [own.width, *(round(there.width * 2.0**i) for i in range(-4, 5))]
    ]
    if isinstance(there, ConvolutionalConfig):
        sizes += [size | {"max_channels": there.most_channels} for size in sizes]
    shares = []
    for size in sizes:
        try:
            config = family_config(own.model_dump() | size)
        except ValidationError:  # out of range
            shares.append(0.0)
            continue
        with torch.device("meta"):  # shapes alone
            shares.append(compare(build_family(config, family.shape), weights).share)
    best = max(range(len(sizes)), key=shares.__getitem__)
    return sizes[best], shares[best]


def percent(share: float) -> str:
    """Return `share` for people, never rounded up to all."""
    return f"{int(share * 1000) / 10:g} %"


def _is_filter(family: Family, name: str) -> bool:
    """Return whether the tensor is what `scale_shift` fixes: of a sampling net, and no part of a normalisation."""
    module = family.nets.get_submodule(name.rpartition(".")[0])
    is_filter = isinstance(module, nn.Conv2d | nn.ConvTranspose2d | nn.Linear) and not isinstance(module, Modulation)
    return is_filter and name.partition(".")[0] in family.sampling_nets


def _net_share(net: str, wanted: Mapping[str, Tensor], taken: set[str]) -> NetShare:
    sizes = {name: tensor.numel() for name, tensor in wanted.items() if name.startswith(f"{net}.")}
    return NetShare(net, sum(sizes.values()), sum(size for name, size in sizes.items() if name in taken))


def _image_side(family: Family, name: str, given: Tensor, wanted: Tensor) -> str | None:
    """Return whether the tensor faces the image as `input` or as `output`, and differs in its channels alone."""
    module = family.nets.get_submodule(name.rpartition(".")[0])
    if not isinstance(module, nn.Conv2d | nn.ConvTranspose2d) or given.ndim != wanted.ndim:
        return None
    if [{a, b} for a, b in zip(given.shape, wanted.shape, strict=True) if a != b] != [{GRAY, COLOUR}]:
        return None
    return "output" if _axis(given, wanted) == _output_axis(module, wanted) else "input"


def _axis(given: Tensor, wanted: Tensor) -> int:
    """Return the one axis along which the shapes differ."""
    return next(i for i, (a, b) in enumerate(zip(given.shape, wanted.shape, strict=True)) if a != b)


def _output_axis(module: nn.Module, tensor: Tensor) -> int:
    """Return the axis of the output channels: the second in the weight of a transposed convolution, else the first."""
    return 1 if isinstance(module, nn.ConvTranspose2d) and tensor.ndim > 1 else 0


def _converted(family: Family, name: str, given: Tensor, wanted: Tensor) -> Tensor:
    """Return `given` in the shape of `wanted`, so that gray images mean what they meant."""
    side, axis = _image_side(family, name, given, wanted), _axis(given, wanted)
    if given.shape[axis] == GRAY:  # three equal channels: as inputs they are to add up to the one
        return given.expand(wanted.shape) / (COLOUR if side == "input" else 1)
    if side == "input":
        return given.sum(dim=axis, keepdim=True)
    luma = given.new_tensor(LUMA).view([-1 if i == axis else 1 for i in range(given.ndim)])
    return (given * luma).sum(dim=axis, keepdim=True)


def _advice(report: LoadReport, family: Family, weights: Mapping[str, Tensor], source: Mapping[str, Any]) -> str:
    """Return the keys in which the models differ, and the size that would fit best."""
    here = {f"model.{key}": value for key, value in family.config.model_dump(mode="json").items()}
    here |= {"dataset.channels": family.shape.channels, "dataset.resolution_px": family.shape.resolution_px}
    there = {f"model.{key}": value for key, value in source["model"].items()}
    there |= {f"dataset.{key}": source[key] for key in ("channels", "resolution_px")}
    keys = ", ".join(
        f"{key} ({there[key]} there, {here[key]} here)" for key in here if there.get(key, here[key]) != here[key]
    )
    lines = [f"The models differ in {keys}." if keys else ""]
    size, share = best_size(family, weights, source)
    if share > report.share:
        keys = " and ".join(f"model.{key}={value}" for key, value in size.items())
        lines.append(
            "Widths are counted from the image side, so a model of twice the resolution has its blocks in common with "
            f"one of twice the width, where both grow as far: with {keys}, {percent(share)} would be taken over."
        )
    return "".join(f"{line}\n" for line in lines if line)


def listed(names: Iterable[object]) -> str:
    """Return the first few names, and how many more there are."""
    names = list(names)
    more = f", and {len(names) - LISTED_NAMES} more" if len(names) > LISTED_NAMES else ""
    return ", ".join(map(str, names[:LISTED_NAMES])) + more
