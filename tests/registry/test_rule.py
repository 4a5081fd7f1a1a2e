"""The rule of promotion as properties, and against real KIDs of models that are equally good."""

import math
from dataclasses import replace
from typing import Any

import pytest
import torch
from hypothesis import assume, given
from hypothesis import strategies as st

from genxfer.metrics.kid import squared_discrepancy
from genxfer.registry.config import PromoteConfig
from genxfer.registry.rule import BASIS, Candidate, decide, difference

MEASURED: dict[str, Any] = {
    "kid": 0.2,
    "kid_standard_error": 0.01,
    "reference_digest": "a" * 64,
    "extractor": "lite0",
    "extractor_digest": "b" * 64,
    "n_samples": 2000,
    "n_reference": 500,
    "memorization": 0.3,
    "memorization_threshold": 0.5,
    "memorization_passed": True,
    "copies": 0.01,
    "copies_threshold": 0.02,
    "transfer_gain": 2.0,
}
RULE = PromoteConfig()

kids = st.floats(-0.01, 10, allow_nan=False)
errors = st.floats(0, 1, allow_nan=False)
rules = st.builds(
    PromoteConfig,
    confidence=st.floats(0.5, 0.9999),
    min_improvement=st.floats(0, 0.9),
    require_memorization=st.booleans(),
    min_first_gain=st.none() | st.floats(0, 5),
)


def candidate(
    version: str = "2", fault: str | None = None, rolled_back: str | None = None, **changed: Any
) -> Candidate:
    known = {name: value for name, value in (MEASURED | changed).items() if value is not None}
    return Candidate(version, known, fault, rolled_back)


def champion(**changed: Any) -> Candidate:
    return candidate("1", **changed)


maybe_champions = st.none() | st.builds(lambda kid, error: champion(kid=kid, kid_standard_error=error), kids, errors)


def failed(challenger: Candidate, against: Candidate | None, config: PromoteConfig = RULE) -> list[str]:
    return [check.name for check in decide(challenger, against, config).checks if not check.passed]


def test_a_clearly_better_model_replaces_the_champion_and_the_numbers_say_why() -> None:
    decision = decide(candidate(kid=0.1), champion(), RULE)
    assert decision.promote
    assert "KID 0.1 ± 0.01 against 0.2 ± 0.01 of version 1 (500 test images, 2000 samples of each)" in decision.reason
    low, high = (0.1 + sign * 1.959964 * (0.01 + 0.01) for sign in (-1, 1))
    assert f"95 % interval {low:.4g} to {high:.4g}" in decision.reason
    assert "It does not copy training images: 1 % copies, allowed 2 %; 30 % near, allowed 50 %." in decision.reason


def test_a_difference_that_chance_explains_is_refused_and_only_what_failed_is_the_reason() -> None:
    decision = decide(candidate(kid=0.18), champion(), RULE)
    assert not decision.promote
    assert "which does not lie above 0" in decision.reason
    assert "copy" not in decision.reason


def test_less_than_the_improvement_asked_for_is_refused() -> None:
    assert failed(candidate(kid=0.15), champion()) == []
    assert failed(candidate(kid=0.15), champion(), PromoteConfig(min_improvement=0.2)) == ["kid"]


@given(kids, errors, maybe_champions, rules)
def test_a_model_that_copies_is_never_promoted(
    kid: float, error: float, against: Candidate | None, config: PromoteConfig
) -> None:
    challenger = candidate(kid=kid, kid_standard_error=error, memorization_passed=False)
    assert not decide(challenger, against, config).promote


@given(kids, errors, maybe_champions, rules)
def test_a_model_that_cannot_be_used_or_was_rolled_back_is_never_promoted(
    kid: float, error: float, against: Candidate | None, config: PromoteConfig
) -> None:
    challenger = candidate(kid=kid, kid_standard_error=error)
    assert not decide(replace(challenger, fault="loading it failed"), against, config).promote
    assert not decide(replace(challenger, rolled_back="yesterday"), against, config).promote


@given(kids, errors, kids, errors, rules)
def test_a_model_is_promoted_only_where_the_interval_of_the_difference_leaves_out_0(
    new: float, new_error: float, old: float, old_error: float, config: PromoteConfig
) -> None:
    challenger = candidate(kid=new, kid_standard_error=new_error)
    against = champion(kid=old, kid_standard_error=old_error)
    if decide(challenger, against, config).promote:
        _, low, high = difference(challenger, against, config.confidence)
        assert 0 < low <= high
        assert new < old
        assert not decide(against, challenger, config).promote


@given(kids, kids, errors, kids, errors, rules)
def test_a_lower_kid_never_turns_a_promotion_into_a_refusal(
    new: float, lower: float, new_error: float, old: float, old_error: float, config: PromoteConfig
) -> None:
    assume(lower <= new)
    against = champion(kid=old, kid_standard_error=old_error)
    as_it_is = decide(candidate(kid=new, kid_standard_error=new_error), against, config)
    better = decide(candidate(kid=lower, kid_standard_error=new_error), against, config)
    assert better.promote or not as_it_is.promote


@given(kids, errors, kids, errors, st.floats(0.5, 0.9999), st.floats(0.5, 0.9999))
def test_more_confidence_never_promotes_more(
    new: float, new_error: float, old: float, old_error: float, a: float, b: float
) -> None:
    challenger, against = (
        candidate(kid=new, kid_standard_error=new_error),
        champion(kid=old, kid_standard_error=old_error),
    )
    less, more = (decide(challenger, against, PromoteConfig(confidence=c)).promote for c in sorted((a, b)))
    assert less or not more


@pytest.mark.parametrize("name", BASIS)
def test_kids_that_were_measured_differently_are_never_compared(name: str) -> None:
    decision = decide(candidate(kid=0.0, **{name: "other"}), champion(), RULE)
    assert not decision.promote
    assert f"they differ in {BASIS[name]} (other against {str(MEASURED[name])[:12]})" in decision.reason
    assert "Register the champion's model again" in decision.reason


@pytest.mark.parametrize("name", ["kid", "kid_standard_error", *BASIS])
def test_a_version_that_does_not_say_what_was_measured_is_never_compared(name: str) -> None:
    assert f"Version 1 does not say its {name}" in decide(candidate(kid=0.0), champion(**{name: None}), RULE).reason
    assert f"Version 2 does not say its {name}" in decide(candidate(**{name: None}), champion(), RULE).reason


@pytest.mark.parametrize("kid", [math.nan, math.inf, -math.inf])
def test_a_kid_that_is_no_number_is_never_compared(kid: float) -> None:
    assert failed(candidate(kid=kid), champion()) == ["kid"]
    assert failed(candidate(kid=0.0), champion(kid=kid)) == ["kid"]


def test_whether_it_copies_has_to_be_known_unless_the_user_says_otherwise() -> None:
    unknown = candidate(kid=0.1, memorization_passed=None)
    assert failed(unknown, champion()) == ["memorization"]
    assert failed(unknown, champion(), PromoteConfig(require_memorization=False)) == []


def test_the_first_champion_needs_a_gain_where_one_was_measured_and_no_comparison() -> None:
    assert failed(candidate(extractor=None), None) == []
    assert failed(candidate(transfer_gain=None), None) == []
    assert failed(candidate(transfer_gain=1.0), None) == ["gain"]
    assert failed(candidate(transfer_gain=1.0), None, PromoteConfig(min_first_gain=0.9)) == []
    assert failed(candidate(transfer_gain=0.1), None, PromoteConfig(min_first_gain=None)) == []


@pytest.mark.parametrize(("of_source", "passes"), [(0.1, False), (0.18, True), (0.3, True)])
def test_the_first_champion_may_not_be_worse_than_the_source_model_it_was_made_from(
    of_source: float, passes: bool
) -> None:
    first = candidate(kid_source=of_source, kid_source_standard_error=0.01)  # against 0.2 ± 0.01, with a gain of 2
    assert failed(first, None) == ([] if passes else ["gain"])
    assert ("KID 0.2 against 0.1 of its own source model" in decide(first, None, RULE).reason) is not passes
    assert failed(first, None, PromoteConfig(min_first_gain=None)) == []
    assert failed(first, champion(kid=0.5)) == []  # there the champion's KID is what counts


@pytest.mark.parametrize(
    ("kid", "scratch", "error", "passes"),
    [(0.3, -0.001, 0.01, False), (-0.001, 0.3, 0.01, True), (-0.001, 0.003, 0.01, False), (0.0, 0.3, None, False)],
)
def test_a_baseline_counts_also_where_its_kid_has_no_ratio_to_the_models(
    kid: float, scratch: float, error: float | None, passes: bool
) -> None:
    """KID is unbiased: at 0 or below there is no gain, but the baseline was measured all the same."""
    first = candidate(transfer_gain=None, kid=kid, kid_scratch=scratch, kid_scratch_standard_error=error)
    assert failed(first, None) == ([] if passes else ["gain"])
    assert failed(first, None, PromoteConfig(min_first_gain=None)) == []


def test_a_broken_champion_and_few_test_images_are_told_beside_the_decision() -> None:
    decision = decide(candidate(kid=0.1, n_reference=20), champion(fault="no such file", n_reference=20), RULE)
    assert decision.promote
    assert "version 1, cannot be used: no such file" in decision.notes[0]
    assert "20 test images are few" in decision.notes[1]


def test_samples_that_are_all_alike_are_told_beside_the_decision() -> None:
    (note,) = decide(candidate(diversity=2.1, diversity_real=21.3), None, RULE).notes
    assert "The samples are far more alike than real images" in note
    for known in ({"diversity": 20.0, "diversity_real": 21.3}, {"diversity": 2.1}):
        assert decide(candidate(**known), None, RULE).notes == ()


def test_a_check_for_copies_that_rules_out_little_is_told_beside_the_decision() -> None:
    for weak in ({"copies_threshold": 0.3}, {"memorization_threshold": 1.0}):
        noted = decide(candidate(**{"copies_heldout": 0.0, "copies_threshold": 0.05} | weak), None, RULE)
        assert any("would have found only many" in note for note in noted.notes)
    assert decide(candidate(copies_heldout=0.0, copies_threshold=0.05), None, RULE).notes == ()


@pytest.mark.parametrize("other_side", [1, -1], ids=["alike", "in opposite directions"])
def test_of_two_equally_good_models_chance_promotes_no_more_than_it_may(other_side: int) -> None:
    """At 95 % one in 40 may pass. The KIDs are real ones, against the same real images, which moves both at once."""
    rng = torch.Generator().manual_seed(0)
    promoted, rounds = 0, 300
    for _ in range(rounds):
        real = torch.randn(40, 2, generator=rng)
        fakes = (torch.randn(200, 2, generator=rng) + shift for shift in (0.6, 0.6 * other_side))
        new, old = (squared_discrepancy(real, fake) for fake in fakes)
        challenger = candidate(kid=new.value, kid_standard_error=new.standard_error)
        promoted += decide(challenger, champion(kid=old.value, kid_standard_error=old.standard_error), RULE).promote
    assert promoted <= 0.025 * rounds + 2 * math.sqrt(0.025 * rounds)


def test_real_differences_are_found() -> None:
    rng = torch.Generator().manual_seed(0)
    real = torch.randn(40, 2, generator=rng)
    near, far = (squared_discrepancy(real, torch.randn(200, 2, generator=rng) + shift) for shift in (0.2, 2.0))
    challenger = candidate(kid=near.value, kid_standard_error=near.standard_error)
    assert decide(challenger, champion(kid=far.value, kid_standard_error=far.standard_error), RULE).promote
