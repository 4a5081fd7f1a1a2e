"""Which method is best on this target, ranked from what each trial scored, and in words what the ranking allows to say.

A trial is one fine-tuning, of one method with one seed; a contender is a method with its trials. Validation chooses,
test reports: methods are ranked by their mean KID against the validation images, and what is said of them is measured
against the test images. A method that failed with some of its seeds ranks behind those that did not, as what is left of
it are the lucky ones; one that copies its training images behind all others. Knows nothing of stages, files or HTML.
"""

import math
import statistics
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from genxfer.metrics.caution import SIGNIFICANT_STANDARD_ERRORS

ENOUGH_SEEDS = 3  # for a spread of its own; with fewer, only the draw of the images is covered
# Two-sided 95 % quantiles of Student's t for 1, 2, ... degrees of freedom, and of the normal distribution.
STUDENT_T = (12.706, 4.303, 3.182, 2.776, 2.571, 2.447, 2.365, 2.306, 2.262, 2.228)
NORMAL = 1.96  # more than 1 % below Student's t up to 100 degrees of freedom


@dataclass(frozen=True)
class Trial:
    """What one fine-tuning scored; `standard_error` covers the draw of the images alone."""

    method: str
    seed: int
    validation_kid: float | None  # what it is chosen by; None, as for all other trials, without validation images
    kid: float  # against the test images, as all that follows
    standard_error: float
    gain: float | None  # KID from scratch / KID transferred; None also where it has no interval, as a KID is near 0
    copies: bool | None  # whether the memorization check failed; None where it was not made
    seconds: float
    moved_parameters: int
    fixed_parameters: int
    samples: NDArray[np.uint8] = field(repr=False, compare=False)  # some to show [N C H W]


@dataclass(frozen=True)
class Contender:
    """A method and its trials; `trials` is not empty."""

    method: str
    trials: tuple[Trial, ...]
    failed: int = 0  # so many seeds came to no trial

    @property
    def kid(self) -> float:
        """The mean over the trials, against the test images: what is reported."""
        return statistics.mean(trial.kid for trial in self.trials)

    @property
    def validation_kid(self) -> float | None:
        """The mean over the trials, against the validation images; None where there are none."""
        kids = [trial.validation_kid for trial in self.trials if trial.validation_kid is not None]
        return statistics.mean(kids) if len(kids) == len(self.trials) else None

    @property
    def ranked_by(self) -> float:
        """The mean of what the trials are chosen by."""
        return statistics.mean(chosen_by(trial) for trial in self.trials)

    @property
    def seeds(self) -> str:
        """Of how many seeds there is a trial: 3, or 1 of 3 seeds, 2 failed."""
        n = len(self.trials)
        return f"{n} of {n + self.failed} seeds, {self.failed} failed" if self.failed else str(n)

    @property
    def standing(self) -> tuple[bool, bool]:
        """What counts before any KID: whether it copies, whether a seed failed; the less, the better."""
        return self.copies is True, self.failed > 0

    @property
    def name(self) -> str:
        """The method as sentences call it."""
        return f"{self.method} ({self.seeds})" if self.failed else self.method

    @property
    def over_seeds(self) -> bool:
        """Whether there are trials enough to tell how much the seed matters."""
        return len(self.trials) >= ENOUGH_SEEDS

    @property
    def standard_error(self) -> float:
        """Of the mean: from the spread over seeds, or with fewer than three from the draw of the images alone."""
        if self.over_seeds:
            return statistics.stdev(trial.kid for trial in self.trials) / math.sqrt(len(self.trials))
        # All trials meet the same held-out images, so their errors do not average out.
        return statistics.mean(trial.standard_error for trial in self.trials)

    @property
    def interval(self) -> tuple[float, float]:
        """The 95 % confidence interval of the mean: Student's t over the seeds, else normal."""
        quantile = _student_t(len(self.trials) - 1) if self.over_seeds else NORMAL
        return self.kid - quantile * self.standard_error, self.kid + quantile * self.standard_error

    @property
    def gain(self) -> float | None:
        """The mean transfer gain, None where a trial has none."""
        gains = [trial.gain for trial in self.trials if trial.gain is not None]
        return statistics.mean(gains) if len(gains) == len(self.trials) else None

    @property
    def copies(self) -> bool | None:
        """Whether a trial failed the memorization check; None where none was made."""
        verdicts = [trial.copies for trial in self.trials if trial.copies is not None]
        return any(verdicts) if verdicts else None

    @property
    def seconds(self) -> float:
        """The mean time of a fine-tuning."""
        return statistics.mean(trial.seconds for trial in self.trials)


def chosen_by(trial: Trial) -> float:
    """Return the KID that ranks `trial`: against the validation images, without such against the test images."""
    return trial.kid if trial.validation_kid is None else trial.validation_kid


def rank(trials: Sequence[Trial], failed: Mapping[str, int] | None = None) -> tuple[Contender, ...]:
    """Return the methods of `trials`, the best first; `failed` says of how many seeds a method has no trial.

    Raises ValueError without trials, and where some were scored against validation images and others were not.
    """
    if not trials:
        raise ValueError("there are no trials to rank")
    if len({trial.validation_kid is None for trial in trials}) > 1:
        raise ValueError("some trials have a validation KID and others have none: they cannot be ranked")
    methods, missing = dict.fromkeys(trial.method for trial in trials), failed or {}
    contenders = [
        Contender(name, tuple(trial for trial in trials if trial.method == name), missing.get(name, 0))
        for name in methods
    ]
    return tuple(sorted(contenders, key=lambda contender: (*contender.standing, contender.ranked_by)))


def best_trial(ranking: Sequence[Contender]) -> Trial:
    """Return the trial to go on with: of the best method, the one nearest to its mean, not a lucky draw."""
    winner = ranking[0]
    return min(winner.trials, key=lambda trial: abs(chosen_by(trial) - winner.ranked_by))


def headline(ranking: Sequence[Contender]) -> str:
    """Return in one sentence what `ranking` allows to say; a difference is one between KIDs on the test images."""
    first = ranking[0]
    if first.copies:
        return "Every method copies its training images: more images, more augmentation or fewer kimg are needed."
    if len(ranking) == 1:
        return f"{first.name} was the only contender."
    second = ranking[1]
    if second.copies:
        return f"{first.name} is best: all other methods copy their training images."
    if second.failed and not first.failed:
        return f"{first.name} came out first: {second.name} ranks behind, as what is left of it are the lucky seeds."
    return _difference(first, second, ranking)


def _difference(first: Contender, second: Contender, ranking: Sequence[Contender]) -> str:
    behind, by_chance = second.kid - first.kid, _by_chance(first, second)
    where, tested = ("", "") if first.validation_kid is None else (" on the validation images", " on the test images")
    if behind < -by_chance:
        return (
            f"{first.name} came out first{where}, but{tested} {second.name} is better: its KID is {-behind:.4f} lower."
        )
    if behind <= by_chance:
        return f"{first.name} came out first{where}, but{tested} {second.name} is not clearly behind."
    # One further down may have turned out lower on the test images.
    best = first.kid <= min(other.kid for other in ranking if other.standing == first.standing)
    place = "is best" if best else f"came out first{where}"
    return f"{first.name} {place}: its KID{tested} is {behind:.4f} below that of {second.name}."


def say_order(ranking: Sequence[Contender], n_validation: int) -> str:
    """Return what put the methods into this order, and what of them is reported."""
    if ranking[0].validation_kid is None:
        return (
            "There are no validation images (dataset.target.n_validation: 0), so the test images both choose and "
            "report: the KID and the gain of the winner are flattered by the choice."
        )
    said = (
        f"The order, and with it the winner, is that of the mean KID against the {n_validation:,} validation images; "
        "what is reported, intervals and gains too, is measured against the test images, which chose nothing."
    )
    equals = [contender for contender in ranking if contender.standing == ranking[0].standing]
    if equals != (tested := sorted(equals, key=lambda contender: contender.kid)):
        said += f" The test images would have made another order: {', '.join(one.method for one in tested)}."
    return said


def say_failed(ranking: Sequence[Contender], lost: Sequence[str] = ()) -> str:
    """Return which methods failed with some of their seeds, and which, `lost`, with all; empty where none did."""
    some = [contender.name for contender in ranking if contender.failed]
    said = []
    if some:
        said.append(
            f"Failed with some of its seeds: {', '.join(some)}. Such a method ranks behind all that came through with "
            "every seed, as the mean of those that are left is that of the lucky ones."
        )
    if lost:
        said.append(f"Failed with every seed, and so not ranked: {', '.join(lost)}.")
    return " ".join(said)


def _by_chance(a: Contender, b: Contender) -> float:
    """Return up to which difference of two mean KIDs chance alone explains, at 95 %.

    Where both have a spread over seeds it is Student's t with the degrees of freedom of Welch (1947), as three seeds
    tell little of a spread; else so many of the combined standard errors.
    """
    squares = [one.standard_error**2 for one in (a, b)]
    quantile = SIGNIFICANT_STANDARD_ERRORS
    if a.over_seeds and b.over_seeds and sum(squares) > 0:
        spread = sum(square**2 / (len(one.trials) - 1) for square, one in zip(squares, (a, b), strict=True))
        quantile = _student_t(int(sum(squares) ** 2 / spread))
    return quantile * math.sqrt(sum(squares))


def _student_t(freedom: int) -> float:
    """Return the quantile; beyond the table by its expansion around the normal one (Fisher & Cornish 1960)."""
    if freedom <= len(STUDENT_T):
        return STUDENT_T[freedom - 1]
    first = (NORMAL**3 + NORMAL) / 4
    second = (5 * NORMAL**5 + 16 * NORMAL**3 + 3 * NORMAL) / 96
    return NORMAL + first / freedom + second / freedom**2


def caveat(ranking: Sequence[Contender]) -> str:
    """Return what the intervals cover."""
    if all(contender.over_seeds for contender in ranking):
        return "The intervals are 95 % confidence intervals of the mean over seeds."
    return (
        "The intervals cover which images were drawn, not how another seed would have turned out: that takes at least "
        f"{ENOUGH_SEEDS} seeds (compare.seeds)."
    )
