"""Checks of sites and subgroups."""

from __future__ import annotations

from collections.abc import Iterable

from storm_clinic.validation.analyses import Analyses, MetaAnalysis, SiteProbe
from storm_clinic.validation.check_words import (
    LEVEL,
    check,
    deciding_p,
    intervals_listed,
    neutral_of,
    tests_listed,
)
from storm_clinic.validation.evidence import Check
from storm_clinic.validation.measures import MEASURES, label_of

_MOST_NAMED = 6  # subgroups in a reason
_FEW_EVENTS = 10  # fewer say next to nothing of a subgroup: an interval of C wider than 0.3


def outcome_by_site(analyses: Analyses) -> Check:
    """SC115."""
    place = ("SC115", "The site does not tell the outcome")
    found = [
        (f"{label_of(probe.metric)} of the site alone on {probe.cohort}", probe.site_alone)
        for probe in _once(analyses.probes)
        if probe.site_alone is not None and probe.metric in MEASURES
    ]
    judged = [(about, value) for about, value in found if value.lower is not None]
    if not judged:
        return check(place, "not applicable", "outcomes of sites were not compared")
    # All probes of one evaluation rank by the same measure, for which one half is chance.
    telling = [(about, value) for about, value in judged if (value.lower or 0) > 0.5]
    if telling:
        reason = (
            f"patients can be ranked by their hospital: {intervals_listed(telling)}; "
            "a model that knows the hospital looks better than it is"
        )
        return check(place, "warn", reason)
    return check(place, "pass", f"this was not shown: {intervals_listed(judged)}")


def _once(probes: Iterable[SiteProbe]) -> list[SiteProbe]:
    """One probe a cohort: the sites' own outcomes are the same, whatever is probed."""
    return list({probe.cohort: probe for probe in probes if probe.site_alone is not None}.values())


def ranking_within_sites(analyses: Analyses) -> Check:
    """SC116."""
    place = ("SC116", "The candidate ranks patients of one site")
    # Whatever is probed, it is the candidate's ranking that is compared.
    probes = {probe.cohort: probe for probe in analyses.probes if probe.within is not None}
    judged = [
        (f"{label_of(probe.metric)} within sites of {probe.cohort}", probe.within, probe.overall)
        for probe in probes.values()
        if probe.within and probe.overall and probe.within.lower is not None
    ]
    if not judged:
        return check(place, "not applicable", "ranking within sites was not estimated")
    lost = [
        (about, within)
        for about, within, overall in judged
        if (within.lower or 0) <= 0.5 < (overall.lower or 0)
    ]
    if lost:
        reason = (
            f"what was shown over all pairs is not shown within sites: {intervals_listed(lost)}"
        )
        return check(place, "fail", reason)
    listed = [(about, within) for about, within, _ in judged]
    halved = any(
        (within.value or 0) - 0.5 < ((overall.value or 0) - 0.5) / 2
        for _, within, overall in judged
    )
    if halved:
        reason = f"more than half of the ranking is between sites: {intervals_listed(listed)}"
        return check(place, "warn", reason)
    return check(place, "pass", intervals_listed(listed))


def subgroups_large_enough(analyses: Analyses, candidate: str) -> Check:
    """SC117."""
    place = ("SC117", "Subgroups are large enough to say something")
    strata = {
        (item.cohort, item.variable, stratum.label): stratum
        for item in analyses.subgroups
        if item.model == candidate
        for stratum in item.strata
    }
    if not strata:
        return check(place, "not applicable", "no subgroup is declared")
    small = [
        f"{variable} {label} in {cohort}: {stratum.n_events} events among {stratum.n_patients}"
        for (cohort, variable, label), stratum in strata.items()
        if stratum.n_events < _FEW_EVENTS
    ]
    if small:
        named = small[:_MOST_NAMED]
        if len(small) > len(named):
            named.append(f"{len(small) - len(named)} more")
        reason = f"too small to say: {'; '.join(named)} (at least {_FEW_EVENTS} events are asked)"
        return check(place, "warn", reason)
    fewest = min(stratum.n_events for stratum in strata.values())
    return check(place, "pass", f"{len(strata)} subgroups, at least {fewest} events in each")


def subgroups_alike(analyses: Analyses, candidate: str) -> Check:
    """SC118."""
    place = ("SC118", "Performance was not shown to differ between subgroups")
    tests = [
        (f"{label_of(item.metric)} by {item.variable} in {item.cohort}", item.heterogeneity)
        for item in analyses.subgroups
        if item.model == candidate and item.heterogeneity is not None
    ]
    judged = [(about, test) for about, test in tests if test.p is not None]
    if not judged:
        return check(place, "not applicable", "differences between subgroups were not tested")
    differ = [(about, test) for about, test in judged if deciding_p(test) < LEVEL]
    if differ:
        return check(place, "warn", f"differs: {tests_listed(differ)}")
    least = min(judged, key=lambda pair: deciding_p(pair[1]))
    reason = f"{len(judged)} comparisons, the smallest p for {tests_listed([least])}"
    return check(place, "pass", f"{reason}; this is no proof that they are alike")


def new_site(analyses: Analyses, candidate: str) -> Check:
    """SC124."""
    place = ("SC124", "A new site may expect what was found")
    found = [
        item
        for item in analyses.sites
        if item.model == candidate
        and item.prediction_lower is not None
        and neutral_of(item.metric) is not None
    ]
    if not found:
        return check(place, "not applicable", "no prediction interval over sites")
    said = [
        (
            (item.prediction_lower or 0) > (neutral_of(item.metric) or 0),
            f"{label_of(item.metric)} in {item.cohort}: {item.prediction_lower:.3f} to "
            f"{item.prediction_upper:.3f} over {_n_entering(item)} sites",
        )
        for item in found
    ]
    crossing = [text for beyond, text in said if not beyond]
    if crossing:
        reason = f"the prediction interval includes no effect: {'; '.join(crossing)}"
        return check(place, "warn", reason)
    return check(place, "pass", "; ".join(text for _, text in said))


def _n_entering(item: MetaAnalysis) -> int:
    """Sites that are large enough to be pooled."""
    return sum(site.value is not None for site in item.sites)
