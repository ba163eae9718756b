"""Checks of effects and use: proportional hazards, added value, net benefit, negative control."""

from __future__ import annotations

import re
from collections.abc import Sequence

from storm_clinic.validation.analyses import Analyses, DecisionCurve, InternalValidity
from storm_clinic.validation.check_words import LEVEL, check, deciding_p, neutral_of, tests_listed
from storm_clinic.validation.evidence import Check, Status
from storm_clinic.validation.measures import label_of

_NULL_OFF = 0.05  # permuted outcomes must be ranked by chance to within this
# What tests of added value are about; others ask whether the risk tells anything at all.
_ADDED = re.compile(r"\badded value\b", re.IGNORECASE)


def proportional_hazards(analyses: Analyses, candidate: str) -> Check:
    """SC113, by the test of every regression and every effect over time."""
    place = ("SC113", "The candidate's effect is constant over time")
    found = [effect.test for effect in analyses.time_effects if effect.model == candidate]
    found += [
        test
        for item in analyses.regressions
        if item.model == candidate and item.kind == "cox"
        for test in item.tests
        if "proportional" in test.name.lower()
    ]
    # Covariates beside the risk may change with time without any harm to it.
    named = re.compile(rf"(?<!\w){re.escape(candidate)}(?!\w)")
    of_risk = [test for test in found if named.search(test.about)] or found
    tests = list({(test.about, test.p): (test.about, test) for test in of_risk}.values())
    if not tests:
        return check(place, "not applicable", "proportional hazards were not tested")
    judged = [(about, test) for about, test in tests if test.p is not None]
    if not judged:
        return check(place, "warn", f"the test could not be made: {tests[0][1].note or 'no p'}")
    violated = [(about, test) for about, test in judged if deciding_p(test) < LEVEL]
    if violated:
        reason = f"hazard ratios change with time: {tests_listed(violated)}; read them as averages"
        return check(place, "warn", reason)
    return check(place, "pass", f"no change with time was shown: {tests_listed(judged)}")


def added_value(analyses: Analyses, candidate: str, comparator: str | None) -> Check:
    """SC114, by likelihood ratio (in Fine and Gray's model a robust Wald test)."""
    place = ("SC114", "The risk adds to what the clinic knows")
    if comparator is None or comparator == candidate:
        return check(place, "not applicable", "there is no other, clinical model to add to")
    tests = [
        (f"{item.title} on {item.cohort} ({test.name}, missing values: {item.missing})", test)
        for item in analyses.regressions
        if item.model == candidate
        for test in item.tests
        if _ADDED.search(f"{test.name} {test.about}")
    ]
    if not tests:
        return check(place, "not applicable", "added value was not tested")
    judged = [(about, test) for about, test in tests if test.p is not None]
    if not judged:
        return check(place, "warn", f"the test could not be made: {tests[0][1].note or 'no p'}")
    if all(deciding_p(test) < LEVEL for _, test in judged):
        return check(place, "pass", f"in the sample: {tests_listed(judged)}")
    nothing = [(about, test) for about, test in judged if deciding_p(test) >= LEVEL]
    return check(place, "warn", f"no added value was shown: {tests_listed(nothing)}")


def net_benefit(analyses: Analyses, candidate: str) -> Check:
    """SC122, over the thresholds that the study names."""
    place = ("SC122", "Net benefit is above treating all, none, or by the clinical model")
    curves = [curve for curve in analyses.decision if curve.model == candidate and curve.thresholds]
    if not curves:
        return check(place, "not applicable", "no decision curve, or no range of thresholds")
    verdicts = [_benefit(curve) for curve in curves]
    order: tuple[Status, ...] = ("fail", "warn", "pass")
    status = next(name for name in order if any(found == name for found, _ in verdicts))
    reason = "; ".join(text for found, text in verdicts if found == status)
    return check(place, status, reason)


def _benefit(curve: DecisionCurve) -> tuple[Status, str]:
    n = len(curve.thresholds)
    above = sum(
        benefit > max(0.0, everyone)
        for benefit, everyone in zip(curve.net_benefit, curve.treat_all, strict=True)
    )
    at = "" if curve.horizon_months is None else f" at {curve.horizon_months:g} months"
    text = (
        f"{curve.cohort}{at}: above treating all and none at {above} of {n} thresholds from "
        f"{curve.thresholds[0]:g} to {curve.thresholds[-1]:g}"
    )
    if not curve.over or not curve.gain:
        return ("pass" if above == n else "warn" if above else "fail"), text
    better, shown = sum(g > 0 for g in curve.gain), sum(g > 0 for g in curve.gain_lower)
    worse = sum(g < 0 for g in curve.gain_upper)
    text += f", above {curve.over} at {better}, by an interval above 0 at {shown}"
    if not above or worse == n:
        return "fail", text
    return ("pass" if above == n and better == n and shown else "warn"), text


def negative_control(analyses: Analyses, candidate: str) -> Check:
    """SC123."""
    place = ("SC123", "Permuted outcomes are not predicted")
    found = [
        item
        for item in analyses.internal
        if item.model == candidate and item.null_p is not None and item.null_mean is not None
    ]
    if not found:
        return check(place, "not applicable", "no outcome was permuted")
    leaking = [item for item in found if abs((item.null_mean or 0) - _chance(item)) > _NULL_OFF]
    if leaking:
        reason = f"permuted outcomes are ranked better or worse than by chance: {_nulls(leaking)}"
        return check(place, "fail", f"{reason}; something of the outcome leaks")
    unclear = [item for item in found if (item.null_p or 0) >= LEVEL]
    if unclear:
        reason = f"the result lies inside what permuted outcomes give: {_nulls(unclear)}"
        return check(place, "fail", reason)
    return check(place, "pass", _nulls(found))


def _nulls(found: Sequence[InternalValidity]) -> str:
    return "; ".join(
        f"{label_of(item.metric)} with permuted outcomes {item.null_mean:.3f} on average "
        f"(p = {item.null_p:.3f}) in {item.cohort}"
        for item in found
    )


def _chance(item: InternalValidity) -> float:
    found = neutral_of(item.metric)
    return (item.null_mean or 0.0) if found is None else found
