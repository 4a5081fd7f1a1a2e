"""Several methods and seeds on one target: which runs that makes, and the ranking of what they scored.

Each run is made of ordinary stages, so everything is cached and shared: one pretraining, one baseline for each seed.
Knows nothing of where the runs take place.
"""

from collections import Counter
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from genxfer.artifacts.atomic import write_atomic, write_json_atomic
from genxfer.artifacts.disk import explaining
from genxfer.artifacts.record import Record
from genxfer.config import Params
from genxfer.pipeline import Context, StageResult
from genxfer.stages.doors import EXPORTS
from genxfer.stages.origin import pretrains
from genxfer.transfer.config import METHOD_KEYS, METHODS

if TYPE_CHECKING:
    from genxfer.report.comparison import Contender, Trial

FOLDER = EXPORTS / "compare"


@dataclass(frozen=True, eq=False)
class Variant:
    """One method and one seed, and the parameters that stand for them."""

    method: str
    seed: int
    params: Params

    @property
    def name(self) -> str:
        """What its task runs are called by."""
        return f"{self.method}-{self.seed}"


def variants(params: Params) -> list[Variant]:
    """Return what `params` asks to compare, the methods of one seed after the other."""
    return [
        Variant(method, seed, _variant(params, method, seed))
        for seed in params.compare.seeds
        for method in params.compared_methods()
    ]


def _variant(params: Params, method: str, seed: int) -> Params:
    """Return `params` with this method and seed; keys of the section that other methods have are dropped."""
    dropped = {key: None for key in METHOD_KEYS if key not in METHODS[method].model_fields}
    changed = {**dropped, "method": method, "seed": seed}
    return params.model_copy(update={"finetune": params.finetune.model_copy(update=changed)})


def ranking_of(
    runs: Sequence[Variant],
    trained: Mapping[Variant, StageResult],
    scored: Mapping[Variant, StageResult],
    context: Context,
) -> tuple["Contender", ...]:
    """Return the ranking of the variants that were scored; those of `runs` that were not have failed.

    `trained` are results of the stage finetune.
    """
    from genxfer.report.comparison import rank

    failed = Counter(run.method for run in runs if run not in scored)
    trials = [_trial(variant, trained[variant].record, scored[variant].record, context) for variant in scored]
    return rank(trials, failed)


def lost_methods(runs: Sequence[Variant], scored: Collection[Variant]) -> list[str]:
    """Return the methods of `runs` of which every seed failed: they are in no ranking."""
    left = {variant.method for variant in scored}
    return [method for method in dict.fromkeys(run.method for run in runs) if method not in left]


def measured_by(scored: Mapping[Variant, StageResult]) -> dict[str, Any]:
    """Return what all numbers of a comparison depend on, as metrics.json has it: the same for every variant."""
    from genxfer.report.comparison_page import MEASURED

    numbers = next(iter(scored.values())).record.facts
    return {name: numbers[name] for name in MEASURED}


def _trial(variant: Variant, training: Record, scores: Record, context: Context) -> "Trial":
    import numpy as np

    from genxfer.report.comparison import Trial

    numbers = scores.facts
    return Trial(
        method=variant.method,
        seed=variant.seed,
        validation_kid=numbers["kid_validation"],
        kid=numbers["kid"],
        standard_error=numbers["kid_standard_error"],
        gain=numbers.get("transfer_gain") if numbers.get("transfer_gain_ci") else None,
        copies=None if (passed := numbers.get("memorization_passed")) is None else not passed,
        seconds=training.seconds,
        moved_parameters=training.facts["moved_parameters"],
        fixed_parameters=training.facts["fixed_parameters"],
        samples=np.load(context.store.read(scores.outputs["samples.npy"])),
    )


def winner(ranking: Sequence["Contender"], runs: Sequence[Variant]) -> Variant:
    """Return the variant to go on with: of the best method, the seed nearest to its mean."""
    from genxfer.report.comparison import best_trial

    best = best_trial(ranking)
    return next(variant for variant in runs if (variant.method, variant.seed) == (best.method, best.seed))


def save_comparison(
    ranking: Sequence["Contender"],
    params: Params,
    target: StageResult,
    context: Context,
    *,
    measured: Mapping[str, Any],
    lost: Sequence[str],
) -> Path:
    """Write comparison.html, comparison.png and comparison.json; return the page. Raises StoreError.

    `measured` is of `measured_by`, `lost` of `lost_methods`.
    """
    import numpy as np

    from genxfer.report.comparison import headline, say_failed, say_order
    from genxfer.report.comparison_page import draw_ranking, render_comparison, table
    from genxfer.stages.pictures import GRID_IMAGES, spread

    images = np.load(context.store.read(target.record.outputs["train.npy"]), mmap_mode="r")
    facts: dict[str, Any] = {
        "source": params.dataset.source.called if pretrains(params) else params.finetune.init_from,
        "target": params.dataset.target.called,
        "family": params.family.family,
        "n_train": len(images),
        "lost": list(lost),
        "measured": dict(measured),
    }
    page = render_comparison(ranking, facts, np.asarray(images[spread(len(images), GRID_IMAGES)]))
    said = {"headline": headline(ranking), "order": say_order(ranking, measured["n_validation"])}
    said["failed"] = say_failed(ranking, lost)
    figure, told = draw_ranking(ranking), said | {"ranking": table(ranking)} | facts
    with explaining("The comparison could not be laid out", FOLDER, setting=None):
        write_atomic(FOLDER / "comparison.html", page.encode())
        write_atomic(FOLDER / "comparison.png", figure)
        write_json_atomic(FOLDER / "comparison.json", told)
    return FOLDER / "comparison.html"
