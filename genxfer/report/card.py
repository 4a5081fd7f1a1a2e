"""The model card: what somebody who finds a registered version has to know of it, as Markdown (Mitchell et al. 2019).

A pure function of facts. Whole it lies beside the weights as model_card.md; what MLflow shows of a version, its
description, has room for the sections that count most. Knows nothing of MLflow or of the store.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from genxfer.metrics import MEANINGS, SCORED_MODELS
from genxfer.metrics.caution import FEW_TEST_IMAGES, is_weak_check, warnings
from genxfer.report.evaluation import Copying, Shares
from genxfer.report.verdict import percent, say_copying

PICTURE = "samples.png"
WHOLE = "model_card.md"
EXTRACTORS = {
    "lite0": "EfficientNet-Lite0, trained on the photographs of ImageNet",
    "inception": "the Inception net of published FIDs, trained on the photographs of ImageNet",
    "dinov2": "a DINOv2 transformer, trained on photographs of the web",
    "pixels": "no net: the pixels themselves, which shifts and brightness move more than content",
}


@dataclass(frozen=True)
class ImagesUsed:
    """One revision of packed images, and what it was used for."""

    use: str  # "source, trained on"
    name: str
    n: int
    digest: str  # sha256 of the packed images
    dvc_md5: str | None = None


@dataclass(frozen=True)
class ModelCard:
    """All that the card tells."""

    name: str
    family: str
    method: str
    resolution_px: int
    channels: int
    images: tuple[ImagesUsed, ...]
    training: Mapping[str, str]  # stage -> its budget, in words
    numbers: Mapping[str, Any]  # metrics.json
    source_model: str | None = None  # where it came from, when it was not pretrained here
    published: str = ""  # which moment of fine-tuning this is
    lineage: Mapping[str, str] = field(default_factory=dict)  # stage -> fingerprint
    git_commit: str | None = None
    git_dirty: bool | None = None  # whether tracked files differed from it; None where nobody could look
    flow_run: str | None = None


def render_card(card: ModelCard) -> str:
    """Return the whole card as Markdown."""
    return "\n\n".join([_title(card), *_sections(card).values()]) + "\n"


def shorten_card(card: ModelCard, limit: int) -> str:
    """Return the title and as many sections as fit into `limit` characters, those that count most before others."""
    sections, kept = _sections(card), dict[str, str]()
    room = limit - len(_title(card)) - 100
    for name in ("numbers", "limits", "data", "training", "use", "lineage"):
        if len(sections[name]) + 2 <= room:
            room -= len(sections[name]) + 2
            kept[name] = sections[name]
    left_out = f"The rest is in {WHOLE}, beside the weights." if len(kept) < len(sections) else ""
    return "\n\n".join(filter(None, [_title(card), *(sections[name] for name in sections if name in kept), left_out]))


def _title(card: ModelCard) -> str:
    colour = "colour" if card.channels == 3 else "gray"
    return (
        f"# {card.name}: {card.family}, adapted by {card.method}\n\n"
        f"Draws {colour} images of {card.resolution_px} x {card.resolution_px} pixels, the same for the same seed.\n\n"
        f"![samples]({PICTURE})"
    )


def _sections(card: ModelCard) -> dict[str, str]:
    return {
        "numbers": _numbers(card.numbers),
        "data": _data(card.images),
        "training": _training(card),
        "limits": "## Limits of use\n\n" + "\n".join(f"- {line}" for line in _limits(card)),
        "use": _use(card.name),
        "lineage": _lineage(card),
    }


def _numbers(numbers: Mapping[str, Any]) -> str:
    models = {model: suffix for model, suffix in reversed(SCORED_MODELS.items()) if f"kid{suffix}" in numbers}
    lines = ["## Numbers", "", f"| | {' | '.join(models)} | |", f"|---|{'---:|' * len(models)}---|"]
    for metric in ("kid", "fid", "precision", "recall", "density", "coverage", "diversity", "memorization", "copies"):
        if numbers.get(metric) is not None:
            values = " | ".join(_value(numbers, metric, suffix) for suffix in models.values())
            lines.append(f"| {metric} | {values} | {MEANINGS[metric]} |")
    warned = "".join(f"**{sentence}** " for sentence in warnings(numbers))
    copying = say_copying(_copying(numbers), pairs="the pairs of report.html")
    lines += ["", f"{warned}{_gain(numbers)}{_sizes(numbers)}", "", copying]
    return "\n".join(lines)


def _value(numbers: Mapping[str, Any], metric: str, suffix: str) -> str:
    value, ends = numbers.get(f"{metric}{suffix}"), numbers.get(f"{metric}{suffix}_ci")
    if value is None:
        return ""
    return f"{value:.4g}" + (f" ({ends[0]:.4g} to {ends[1]:.4g})" if ends else "")


def _gain(numbers: Mapping[str, Any]) -> str:
    gain, ends = numbers.get("transfer_gain"), numbers.get("transfer_gain_ci")
    if gain is None:
        return ""
    if not ends:
        return "KID is too near 0 for a transfer gain (KID from scratch / KID transferred) that says something. "
    return (
        f"Transfer gain {gain:.2f} (KID from scratch / KID transferred, 95 % interval {ends[0]:.2f} to {ends[1]:.2f}). "
    )


def _sizes(numbers: Mapping[str, Any]) -> str:
    return (
        f"{numbers['n_samples']:,} samples of each model (seed {numbers['seed']}) against {numbers['n_reference']:,} "
        f"test images; features of {numbers['extractor']} ({numbers['feature_size']:,}), weights "
        f"{numbers['extractor_digest'][:12]}; in brackets 95 % intervals."
    )


def _copying(numbers: Mapping[str, Any]) -> Copying | None:
    if numbers.get("memorization_passed") is None:
        return None
    copies, near = (
        Shares(*(numbers[f"{name}{end}"] for end in ("", "_heldout", "_threshold")))
        for name in ("copies", "memorization")
    )
    return Copying(copies, near, numbers["memorization_passed"], np.empty((0, 2, 1, 1, 1), np.uint8))


def _data(images: tuple[ImagesUsed, ...]) -> str:
    lines = ["## Data", "", "| use | images | from | sha256 of the packed images | DVC |", "|---|---:|---|---|---|"]
    for used in images:
        lines.append(f"| {used.use} | {used.n:,} | {_cell(used.name)} | `{used.digest[:16]}` | {used.dvc_md5 or ''} |")
    return "\n".join(lines)


def _training(card: ModelCard) -> str:
    lines = [f"- {stage}: {budget}" for stage, budget in card.training.items()]
    if card.source_model:
        lines.insert(0, f"- source model: {card.source_model}")
    return "\n".join(
        ["## Training", "", f"Family `{card.family}`, method `{card.method}`. {card.published}", "", *lines]
    )


def _limits(card: ModelCard) -> list[str]:
    numbers, extractor = card.numbers, card.numbers["extractor"]
    trained = " and ".join(f"{used.n:,} images of {used.name}" for used in card.images if "trained" in used.use)
    if card.source_model:
        trained += f", and before that what its source model, {card.source_model}, was trained on"
    sees = f"{extractor}: {EXTRACTORS.get(extractor, 'see its documentation')}"
    limits = [
        f"It saw {trained}: it varies these and knows nothing else. What they leave out or get wrong, it does too.",
        _copying_limit(numbers),
        "Licences are not read: whoever uses it has to have the right to use the images that it was trained on, those "
        "of the source model among them, and to see whether they show persons or trade marks.",
        f"Distances are what the extractor sees ({sees}). They compare with others of the same extractor, test images "
        "and number of samples" + ("." if extractor == "inception" else " alone, not with published FIDs."),
        "The intervals cover which images were drawn, not how another training seed would have turned out.",
    ]
    if numbers["n_reference"] < FEW_TEST_IMAGES:
        limits.append(f"{numbers['n_reference']} test images are few: the intervals themselves are rough.")
    return [*limits, *numbers.get("notes", ())]


def _copying_limit(numbers: Mapping[str, Any]) -> str:
    if numbers.get("memorization_passed") is None:
        return "**Whether it repeats training images was not measured**: look before you show its samples."
    allowed = percent(numbers["copies_threshold"])
    if numbers["memorization_passed"] and is_weak_check(numbers):
        return "The check for copies found none, but with so few images it would only have found many."
    if numbers["memorization_passed"]:
        return (
            f"The check for copies passed. It compares shares, and a model may pass of which {allowed} of the samples "
            "are copies: it does not prove that no sample looks like a training image."
        )
    copies, near, near_allowed = (
        percent(numbers[name]) for name in ("copies", "memorization", "memorization_threshold")
    )
    return (
        f"**It copies training images** ({copies} of the samples are copies, or nearly so, allowed {allowed}; {near} "
        f"lie next to one, allowed {near_allowed}): its samples are no new images."
    )


def _use(name: str) -> str:
    return (
        "## Use\n\n```python\n"
        f'model = mlflow.pyfunc.load_model("models:/{name}/VERSION")  # or @champion; with pickle switched off, too\n'
        'images = model.predict({"n": 16, "seed": 7})  # uint8 [N H W C]; the same seed gives the same images\n```'
    )


def _lineage(card: ModelCard) -> str:
    lines = [f"- {stage}: `{fingerprint}`" for stage, fingerprint in card.lineage.items()]
    lines.append(f"- code: {_code(card)}")
    lines.append(f"- made by: {card.flow_run or 'the command line or DVC, in no flow run'}")
    return "\n".join(
        ["## Lineage", "", "The fingerprint of each stage, by which the store knows its result:", "", *lines]
    )


def _code(card: ModelCard) -> str:
    if card.git_commit is None:
        return "in no Git checkout, or in one without a commit"
    return f"Git commit `{card.git_commit}`" + (" with uncommitted changes" if card.git_dirty else "")


def _cell(text: str) -> str:
    return text.replace("|", "\\|")
