"""Checks of what the analyses of an evaluation found: codes SC113 to SC128.

They look at the candidate, and apply only where the analysis was made. A test that finds nothing
does not prove that nothing is there; the reasons say "was not shown".
"""

from __future__ import annotations

from storm_clinic.validation.analyses import Analyses
from storm_clinic.validation.check_words import LEVEL, check, deciding_p
from storm_clinic.validation.domain_check import slides_in_domain
from storm_clinic.validation.drift_check import features_alike
from storm_clinic.validation.effect_checks import (
    added_value,
    negative_control,
    net_benefit,
    proportional_hazards,
)
from storm_clinic.validation.evidence import Check
from storm_clinic.validation.strata_checks import (
    new_site,
    outcome_by_site,
    ranking_within_sites,
    subgroups_alike,
    subgroups_large_enough,
)

_DIFFERENT_MIX = 0.2  # standardised difference; Austin, Stat. Med. 28 (2009) 3083-3107 uses 0.1
_MISSING_SHARE = (0.5, 0.2)  # fail above, warn above
_LISTED = 3  # of a longer list the worst; the table has all


def analysis_checks(
    analyses: Analyses,
    *,
    candidate: str,
    comparator: str | None,
    thresholds_named: bool | None = None,
    cut_points_from: str | None = None,
) -> tuple[Check, ...]:
    """One check a code, in the order of the codes.

    Parameters
    ----------
    analyses : Analyses
        Of the evaluated cohorts.
    candidate, comparator : str
        Models; the comparator is the clinical one, None if there is none.
    thresholds_named : bool, optional
        Whether the study names its range of risk thresholds; None where no study is known.
    cut_points_from : {"development", "evaluated"}, optional
        Whose risks the cut points of risk groups were chosen on; None where there are none.
    """
    return (
        proportional_hazards(analyses, candidate),
        added_value(analyses, candidate, comparator),
        outcome_by_site(analyses),
        ranking_within_sites(analyses),
        subgroups_large_enough(analyses, candidate),
        subgroups_alike(analyses, candidate),
        _validation_large_enough(analyses),
        _missing(analyses),
        _case_mix(analyses),
        net_benefit(analyses, candidate),
        negative_control(analyses, candidate),
        new_site(analyses, candidate),
        _range_named(thresholds_named),
        _cut_points(cut_points_from),
        features_alike(analyses),
        slides_in_domain(analyses),
    )


def _validation_large_enough(analyses: Analyses) -> Check:
    place = ("SC119", "The evaluation is large enough for the precision aimed at")
    found = [item for item in analyses.adequacy if item.stage == "validation"]
    judged = [
        (item.cohort, need)
        for item in found
        for need in item.requirements
        if need.enough is not None
    ]
    if not found:
        return check(place, "not applicable", "precision was not worked out")
    if not judged:
        return check(place, "fail", found[0].sentence)
    short = [pair for pair in judged if not pair[1].enough]
    short.sort(key=lambda pair: pair[1].needed_patients or 0, reverse=True)
    if short:
        reason = "; ".join(
            f"{need.criterion} in {cohort}: {need.reached}, {need.needed_patients} patients are "
            f"needed for an {need.target}, {need.available_patients} are there"
            for cohort, need in short[:_LISTED]
        )
        more = len(short) - _LISTED
        return check(place, "warn", reason + (f"; and {more} more" if more > 0 else ""))
    return check(place, "pass", " ".join(item.sentence for item in found))


def _missing(analyses: Analyses) -> Check:
    place = ("SC120", "What is missing is little, and does not go with the outcome")
    known = [item for item in analyses.missingness if item.n_patients]
    if not known:
        return check(place, "not applicable", "missing values were not counted")
    fail, warn = _MISSING_SHARE
    said, worst = [], 0.0
    for item in known:
        share = item.n_missing / item.n_patients
        related = (
            item.test is not None and item.test.p is not None and deciding_p(item.test) < LEVEL
        )
        if share <= warn and not related:
            continue
        worst = max(worst, share)
        text = f"{item.variable} in {item.cohort}: {share:.0%} missing"
        if related and item.test is not None:
            text += f", which goes with the outcome (p = {deciding_p(item.test):.3f})"
        said.append(text)
    if said:
        return check(place, "fail" if worst > fail else "warn", "; ".join(said))
    most = max(known, key=lambda item: item.n_missing / item.n_patients)
    share = most.n_missing / most.n_patients
    reason = f"at most {share:.0%} ({most.variable} in {most.cohort})"
    return check(place, "pass", f"{reason}; no relation with the outcome was shown")


def _case_mix(analyses: Analyses) -> Check:
    place = ("SC121", "Patients are like those of development")
    known = [item for item in analyses.case_mix if item.standardised_difference is not None]
    if not known:
        return check(place, "not applicable", "there is nothing to compare the patients with")
    differ = [item for item in known if abs(item.standardised_difference or 0) > _DIFFERENT_MIX]
    listed = "; ".join(
        f"{item.variable} in {item.cohort}: {item.standardised_difference:+.2f}"
        for item in differ or [max(known, key=lambda i: abs(i.standardised_difference or 0))]
    )
    if differ:
        reason = f"standardised differences beyond {_DIFFERENT_MIX:g}: {listed}"
        return check(place, "warn", f"{reason}; performance is about other patients too")
    return check(place, "pass", f"the largest standardised difference is {listed}")


def _range_named(thresholds_named: bool | None) -> Check:
    place = ("SC125", "The study names its range of thresholds")
    if thresholds_named is None:
        return check(place, "not applicable", "no study file is known")
    if thresholds_named:
        return check(place, "pass", "named before the data were looked at")
    reason = "none is named: whoever chooses it now has seen the curves"
    return check(place, "warn", reason)


def _cut_points(cut_points_from: str | None) -> Check:
    place = ("SC126", "No threshold was tuned on the patients it is judged on")
    if cut_points_from is None:
        return check(place, "not applicable", "no cut points of risk groups")
    if cut_points_from == "development":
        return check(place, "pass", "cut points were fixed on development data")
    reason = f"cut points were chosen on {cut_points_from} patients: groups look too far apart"
    return check(place, "fail", reason)
