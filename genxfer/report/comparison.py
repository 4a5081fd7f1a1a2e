"""Which method is best on this target, ranked from what each trial scored, and in words what the ranking allows to say.

A trial is one fine-tuning, of one method with one seed; a contender is a method with its trials. Methods are ranked by
their mean KID, those that copy their training images behind all others. Knows nothing of stages, files or HTML.
"""

import math
import statistics
from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

ENOUGH_SEEDS = 3  # for a spread of its own; with fewer, only the draw of the images is covered
SIGNIFICANT_STANDARD_ERRORS = 2.0
# Two-sided 95 % quantiles of Student's t for 1, 2, ... degrees of freedom, and of the normal distribution.
STUDENT_T = (12.706, 4.303, 3.182, 2.776, 2.571, 2.447, 2.365, 2.306, 2.262, 2.228)
NORMAL = 1.96  # more than 1 % below Student's t up to 100 degrees of freedom


@dataclass(frozen=True)
class Trial:
    """What one fine-tuning scored; `standard_error` covers the draw of the images alone."""

    method: str
    seed: int
    kid: float
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

    @property
    def kid(self) -> float:
        """The mean over the trials."""
        return statistics.mean(trial.kid for trial in self.trials)

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


def rank(trials: Sequence[Trial]) -> tuple[Contender, ...]:
    """Return the methods of `trials`, the best first; raises ValueError without trials."""
    if not trials:
        raise ValueError("there are no trials to rank")
    methods = dict.fromkeys(trial.method for trial in trials)
    contenders = [Contender(name, tuple(trial for trial in trials if trial.method == name)) for name in methods]
    return tuple(sorted(contenders, key=lambda contender: (contender.copies is True, contender.kid)))


def best_trial(ranking: Sequence[Contender]) -> Trial:
    """Return the trial to go on with: of the best method, the one nearest to its mean, not a lucky draw."""
    winner = ranking[0]
    return min(winner.trials, key=lambda trial: abs(trial.kid - winner.kid))


def headline(ranking: Sequence[Contender]) -> str:
    """Return in one sentence what `ranking` allows to say."""
    first = ranking[0]
    if first.copies:
        return "Every method copies its training images: more images, more augmentation or fewer kimg are needed."
    if len(ranking) == 1:
        return f"{first.method} was the only contender."
    second = ranking[1]
    if second.copies:
        return f"{first.method} is best: all other methods copy their training images."
    if second.kid - first.kid <= _by_chance(first, second):
        return f"{first.method} came out first, but {second.method} is not clearly behind."
    return f"{first.method} is best: its KID is {second.kid - first.kid:.4f} below that of {second.method}."


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
