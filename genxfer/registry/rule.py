"""The rule that decides whether a challenger takes the champion's place: numbers in, a decision with its reasons out.

Pure: it speaks to no registry and loads no model. `promotion.py` gathers what is known and carries the decision out.

Both KIDs are estimates against the same test images, so their errors hang together, in a way that the two standard
errors do not tell: images that make one model look worse may make the other look worse too, or better. Whatever it is,
the standard error of the difference is at most the sum of both (Cauchy-Schwarz), and that is what is used here. Errors
added as if independent, a root of squares, would promote equal models more than twice as often as promised where
these err in opposite directions (tests/registry/test_rule.py).
"""

import math
from collections.abc import Mapping
from dataclasses import dataclass
from statistics import NormalDist
from typing import Any

from genxfer.metrics.caution import FEW_TEST_IMAGES, is_weak_check, made_worse, say_variety
from genxfer.registry.config import ROLLED_BACK_TAG, PromoteConfig

# What two KIDs have to share to be compared, and what it is called.
BASIS = {
    "reference_digest": "test images",
    "extractor": "feature extractor",
    "extractor_digest": "weights of the extractor",
    "n_samples": "number of samples",
}


@dataclass(frozen=True)
class Candidate:
    """What is known of one registered version."""

    version: str
    measured: Mapping[str, Any]  # as metrics.json has it; empty where the version does not say
    fault: str | None = None  # why it cannot be loaded, or does not draw what it should
    rolled_back: str | None = None  # when and why it was taken back, if it was


@dataclass(frozen=True)
class Check:
    """One thing that the rule asks for, whether it holds, and the numbers that say so."""

    name: str
    passed: bool
    text: str


@dataclass(frozen=True)
class Decision:
    """Whether the challenger is to become the champion, and why or why not."""

    promote: bool
    checks: tuple[Check, ...]
    notes: tuple[str, ...] = ()

    @property
    def reason(self) -> str:
        """What decided, in sentences: all that held, or all that did not."""
        return " ".join(check.text for check in self.checks if check.passed == self.promote)


def decide(challenger: Candidate, champion: Candidate | None, config: PromoteConfig) -> Decision:
    """Return whether `challenger` replaces `champion`; None is no champion yet."""
    worth = _better(challenger, champion, config) if champion else _worth_it(challenger, config)
    checks = (worth, _does_not_copy(challenger, config), _loads(challenger), _stands(challenger))
    return Decision(all(check.passed for check in checks), checks, tuple(_notes(challenger, champion)))


def difference(challenger: Candidate, champion: Candidate, confidence: float) -> tuple[float, float, float]:
    """Return by how much the challenger's KID is lower than the champion's, and the ends of the interval of that."""
    (new, new_error), (old, old_error) = _kid(challenger), _kid(champion)
    half = NormalDist().inv_cdf((1 + confidence) / 2) * (new_error + old_error)
    return old - new, old - new - half, old - new + half


def _better(challenger: Candidate, champion: Candidate, config: PromoteConfig) -> Check:
    if differing := _not_comparable(challenger, champion):
        return Check("kid", False, differing)
    lower, low, high = difference(challenger, champion, config.confidence)
    wanted = config.min_improvement * max(_kid(champion)[0], 0.0)
    measured = challenger.measured
    on = f"{measured.get('n_reference', 'the same')} test images, {measured['n_samples']} samples of each"
    found = (
        f"KID {_said(challenger)} against {_said(champion)} of version {champion.version} ({on}): the difference is "
        f"{lower:.4g}, {_percent(config.confidence)} interval {low:.4g} to {high:.4g}"
    )
    if low > wanted:
        return Check("kid", True, f"{found}, better than by chance.")
    asked = f"above {wanted:.4g} ({_percent(config.min_improvement)} of the champion's)" if wanted else "above 0"
    return Check("kid", False, f"{found}, which does not lie {asked}.")


def _not_comparable(challenger: Candidate, champion: Candidate) -> str | None:
    """Say why the KIDs of both cannot be compared, if they cannot."""
    for candidate in (challenger, champion):
        missing = [name for name in ("kid", "kid_standard_error", *BASIS) if candidate.measured.get(name) is None]
        if missing:
            return f"Version {candidate.version} does not say its {', '.join(missing)}: evaluate and register it again."
        if not all(math.isfinite(number) for number in _kid(candidate)):
            return f"Version {candidate.version} has a KID that is no number: {_said(candidate)}."
    new, old = challenger.measured, champion.measured
    differing = [f"{word} ({_short(new[k])} against {_short(old[k])})" for k, word in BASIS.items() if new[k] != old[k]]
    if not differing:
        return None
    return (
        f"The KIDs of versions {challenger.version} and {champion.version} cannot be compared: they differ in "
        f"{', '.join(differing)}. Register the champion's model again with the evaluation of the challenger."
    )


def _worth_it(challenger: Candidate, config: PromoteConfig) -> Check:
    if config.min_first_gain is not None and made_worse(challenger.measured):
        return Check("gain", False, _worse_than_its_source(challenger.measured))
    gain = challenger.measured.get("transfer_gain")
    if config.min_first_gain is not None and gain is None and challenger.measured.get("kid_scratch") is not None:
        return _better_than_from_scratch(challenger, config)
    if config.min_first_gain is None or gain is None:
        return Check("gain", True, "There is no champion yet, and no transfer gain is asked for or known.")
    passed = gain > config.min_first_gain
    said = "above" if passed else "not above"
    return Check(
        "gain", passed, f"There is no champion yet; the transfer gain is {gain:.3g}, {said} {config.min_first_gain:g}."
    )


def _worse_than_its_source(measured: Mapping[str, Any]) -> str:
    return (
        f"There is no champion yet; KID {measured['kid']:.4g} against {measured['kid_source']:.4g} of its own source "
        "model, not fine-tuned: fine-tuning made it worse, by more than chance explains."
    )


def _better_than_from_scratch(challenger: Candidate, config: PromoteConfig) -> Check:
    """Compare with the baseline where their KIDs have no ratio, as one of them is not above 0: by their difference."""
    measured = challenger.measured
    of_baseline = {"kid": measured["kid_scratch"], "kid_standard_error": measured.get("kid_scratch_standard_error")}
    errors = (measured.get("kid_standard_error"), of_baseline["kid_standard_error"])
    if measured.get("kid") is None or None in errors:
        text = f"Version {challenger.version} does not say its KIDs with their errors: evaluate and register it again."
        return Check("gain", False, text)
    baseline = Candidate("from scratch", of_baseline)
    lower, low, high = difference(challenger, baseline, config.confidence)
    found = (
        f"There is no champion yet; KID {_said(challenger)} against {_said(baseline)} of training from scratch, not "
        f"both above 0, so that there is no transfer gain: the difference is {lower:.4g}, "
        f"{_percent(config.confidence)} interval {low:.4g} to {high:.4g}"
    )
    if low > 0:
        return Check("gain", True, f"{found}, better than by chance.")
    return Check("gain", False, f"{found}, which does not lie above 0.")


def _does_not_copy(challenger: Candidate, config: PromoteConfig) -> Check:
    measured = challenger.measured
    passed = measured.get("memorization_passed")
    if passed is None:
        text = "Whether it copies training images was not measured (evaluate.metrics: memorization)."
        return Check("memorization", not config.require_memorization, text)
    shares = [
        f"{_percent(measured[name])} {word}, allowed {_percent(measured[f'{name}_threshold'])}"
        for name, word in (("copies", "copies"), ("memorization", "near"))
        if measured.get(name) is not None and measured.get(f"{name}_threshold") is not None
    ]
    said = "It does not copy training images" if passed else "It copies training images"
    return Check("memorization", bool(passed), f"{': '.join([said, '; '.join(shares)] if shares else [said])}.")


def _loads(challenger: Candidate) -> Check:
    if challenger.fault is None:
        return Check("loads", True, "It loads in a process of its own, pickle refused, and draws images.")
    return Check("loads", False, f"It cannot be used: {challenger.fault}")


def _stands(challenger: Candidate) -> Check:
    if challenger.rolled_back is None:
        return Check("stands", True, "It was never rolled back.")
    mend = f"Register another, or delete the version's tag {ROLLED_BACK_TAG}."
    text = f"It was rolled back ({challenger.rolled_back}). {mend}"
    return Check("stands", False, text)


def _notes(challenger: Candidate, champion: Candidate | None) -> list[str]:
    notes = []
    if champion is not None and champion.fault is not None:
        notes.append(f"The champion, version {champion.version}, cannot be used: {champion.fault}")
    if is_weak_check(challenger.measured):
        notes.append("So few images were compared that the check for copies would have found only many.")
    if alike := say_variety(*(challenger.measured.get(name) for name in ("diversity", "diversity_real"))):
        notes.append(alike)  # no check: the KID counts it already, and the champion's samples may be more alike still
    n = challenger.measured.get("n_reference")
    if n is not None and n < FEW_TEST_IMAGES:
        notes.append(f"{n} test images are few: the interval itself is rough. Hold out {FEW_TEST_IMAGES} or more.")
    return notes


def _kid(candidate: Candidate) -> tuple[float, float]:
    """Return the KID and its standard error."""
    return float(candidate.measured["kid"]), float(candidate.measured["kid_standard_error"])


def _said(candidate: Candidate) -> str:
    value, error = _kid(candidate)
    return f"{value:.4g} ± {error:.2g}"


def _percent(share: float) -> str:
    return f"{100 * share:.4g} %"


def _short(value: Any) -> str:
    return str(value)[:12]
