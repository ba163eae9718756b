"""Automatic checks with stable codes: each passes, warns, fails or does not apply, with its reason.

| code | asks |
| --- | --- |
| SC101 | Are there enough events for the parameters of the clinical model? |
| SC102 | Does follow-up reach the horizons? |
| SC103 | Are there enough events to validate on? |
| SC104 | Do predicted and observed risks agree on validation? |
| SC105 | Does the candidate gain over the clinical comparator? |
| SC106 | Are development and validation patients apart? |
| SC107 | Are the clinical covariates there? |
| SC108 | Did development see more than one site? |
| SC109 | Was the encoder pre-trained on data that are evaluated here? |
| SC110 | Are all patients real? |
| SC111 | Does the candidate rank better than chance? |
| SC112 | Is each part of each fusion among the models? |
| SC113 | Is the candidate's effect constant over time (proportional hazards)? |
| SC114 | Does the risk add to the clinical covariates, by a test? |
| SC115 | Does the site tell the outcome? |
| SC116 | Does the candidate rank patients of one site? |
| SC117 | Are subgroups large enough to say something? |
| SC118 | Does performance differ between subgroups? |
| SC119 | Are there enough patients for the precision aimed at? |
| SC120 | Is much missing, or does being missing go with the outcome? |
| SC121 | Are the patients like those of development? |
| SC122 | Is net benefit above treating all, none, and by the clinical model? |
| SC123 | Are permuted outcomes left unpredicted? |
| SC124 | May a new site expect what was found? |
| SC125 | Does the study name its range of thresholds? |
| SC126 | Was no threshold tuned on the patients it is judged on? |
| SC127 | Do features look like those of development? |
| SC128 | Do slides look like what STORM was trained on? |

A code is never reused for another question. SC113 to SC128 look at analyses, in a module of their
own, and do not apply where the analysis was not made. Thresholds are conventions of the field,
named beside each check; they prompt a reader to look, and settle nothing.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Literal

from storm_clinic.validation.analyses import Analyses
from storm_clinic.validation.analysis_checks import analysis_checks
from storm_clinic.validation.evidence import Check, Estimate, Kind, Status
from storm_clinic.validation.fusion import missing_parts
from storm_clinic.validation.measures import MEASURES, gain_of, label_of

_EVENTS_PER_PARAMETER = (5, 10)  # fail below, warn below; Peduzzi, J. Clin. Epidemiol. 48 (1995)
_EVENTS_TO_VALIDATE = (20, 100)  # Collins, Ogundimu & Altman, Stat. Med. 35 (2016) 214-226: 100
_RANKING = ("c_index", "auroc", "auroc_macro")  # the measure of ranking, by kind of outcome
_FOLLOWED_BEYOND = 10  # fewer patients beyond a horizon carry all that is said about it
_MISSING_SHARE = (0.5, 0.2)  # fail above, warn above


@dataclass(frozen=True)
class CohortFacts:
    """What checks must know of one cohort beside its estimates.

    Attributes
    ----------
    name : str
    role : {"development", "validation"}
    n_patients, n_events : int
        Analysed; events of the cause of interest, of several classes patients of the rarest.
    n_sites : int or None
        None where no site is declared.
    followed_beyond : mapping of horizon in months to int
        Patients under observation beyond each horizon; empty for classes.
    missing_share : mapping of covariate to float
        Share of patients without a value.
    encoders_seen : tuple of str
        Encoders declared to be pre-trained on this cohort's source.
    simulated : bool
    """

    name: str
    role: Literal["development", "validation"]
    n_patients: int
    n_events: int
    n_sites: int | None = None
    followed_beyond: Mapping[float, int] = field(default_factory=dict)
    missing_share: Mapping[str, float] = field(default_factory=dict)
    encoders_seen: tuple[str, ...] = ()
    simulated: bool = False


@dataclass(frozen=True)
class CheckInput:
    """Everything the checks of one evaluation look at.

    Attributes
    ----------
    kind : {"cross-validation", "external"}
    estimates : sequence of Estimate
    cohorts : sequence of CohortFacts
        Development cohorts, and the validation cohorts if there are any.
    candidate, comparator : str
        Names of models; the comparator is the clinical one, None if there is none.
    clinical_parameters : int or None
        Coefficients of the clinical model; None where there is no such model.
    n_overlapping : int or None
        Patients or slides found in development and validation; None where nobody looked.
    encoder : str or None
        Encoder of the features; None where no model sees images.
    inputs : mapping of model to inputs
        What each model of the study sees; empty where that is not known.
    analyses : Analyses
        Of the evaluated cohorts; checks of those that were not made do not apply.
    thresholds_named : bool or None
        Whether the study names its range of risk thresholds; None where no study is known.
    cut_points_from : {"development", "evaluated"} or None
        Whose risks the cut points of risk groups were chosen on; None where there are none.
    """

    kind: Kind
    estimates: Sequence[Estimate]
    cohorts: Sequence[CohortFacts]
    candidate: str
    comparator: str | None
    clinical_parameters: int | None = None
    n_overlapping: int | None = None
    encoder: str | None = None
    inputs: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    analyses: Analyses = field(default_factory=Analyses)
    thresholds_named: bool | None = None
    cut_points_from: Literal["development", "evaluated"] | None = None

    @property
    def counted(self) -> str:
        """What ``n_events`` of a cohort counts."""
        several = any(e.metric == "auroc_macro" for e in self.estimates)
        return "patients of the rarest class" if several else "events"

    @property
    def development(self) -> list[CohortFacts]:
        return [cohort for cohort in self.cohorts if cohort.role == "development"]

    @property
    def evaluated(self) -> list[CohortFacts]:
        """The cohorts that the estimates are about."""
        role = "validation" if self.kind == "external" else "development"
        return [cohort for cohort in self.cohorts if cohort.role == role]


def run_checks(given: CheckInput) -> tuple[Check, ...]:
    """All checks, in order of their codes."""
    return (
        _events_per_parameter(given),
        _follow_up(given),
        _events_to_validate(given),
        _calibration(given),
        _gain(given),
        _overlap(given),
        _missing(given),
        _sites(given),
        _pretraining(given),
        _simulated(given),
        _better_than_chance(given),
        _fusion_parts(given),
        *analysis_checks(
            given.analyses,
            candidate=given.candidate,
            comparator=given.comparator,
            thresholds_named=given.thresholds_named,
            cut_points_from=given.cut_points_from,
        ),
    )


def _check(code: str, title: str, status: Status, reason: str) -> Check:
    return Check(code=code, title=title, status=status, reason=reason)


def _events_per_parameter(given: CheckInput) -> Check:
    title = "Enough events for the clinical model's parameters"
    if not given.clinical_parameters:
        reason = "no clinical model, or its number of parameters is not known"
        return _check("SC101", title, "not applicable", reason)
    events = sum(cohort.n_events for cohort in given.development)
    ratio = events / given.clinical_parameters
    low, enough = _EVENTS_PER_PARAMETER
    status: Status = "fail" if ratio < low else "warn" if ratio < enough else "pass"
    reason = (
        f"{events} {given.counted} for {given.clinical_parameters} parameters, {ratio:.1f} each"
    )
    return _check("SC101", title, status, f"{reason}; at least {enough} are usual")


def _follow_up(given: CheckInput) -> Check:
    title = "Follow-up reaches the horizons"
    reached = [
        (cohort.name, horizon, n)
        for cohort in given.evaluated
        for horizon, n in cohort.followed_beyond.items()
    ]
    if not reached:
        return _check("SC102", title, "not applicable", "no horizon is judged")
    fewest = min(n for _, _, n in reached)
    status: Status = "fail" if fewest == 0 else "warn" if fewest < _FOLLOWED_BEYOND else "pass"
    few = [item for item in reached if item[2] < _FOLLOWED_BEYOND] or reached
    reason = "; ".join(
        f"{name}: {n} patients followed beyond {horizon:g} months" for name, horizon, n in few
    )
    return _check("SC102", title, status, reason)


def _events_to_validate(given: CheckInput) -> Check:
    title = "Enough events to validate on"
    if given.kind != "external":
        return _check("SC103", title, "not applicable", "no validation cohort")
    few, enough = _EVENTS_TO_VALIDATE
    fewest = min((cohort.n_events for cohort in given.evaluated), default=0)
    status: Status = "fail" if fewest < few else "warn" if fewest < enough else "pass"
    counts = "; ".join(f"{c.name}: {c.n_events} {given.counted}" for c in given.evaluated)
    return _check("SC103", title, status, f"{counts or 'no cohort'}; at least {enough} are advised")


def _calibration(given: CheckInput) -> Check:
    title = "Predicted and observed risks agree"
    if given.kind != "external":
        reason = "calibration is judged on validation cohorts"
        return _check("SC104", title, "not applicable", reason)
    found = _of_candidate(given, ("o_e", "calibration_slope", "calibration_intercept"))
    judged = [e for e in found if e.lower is not None and e.upper is not None]
    if not judged:
        return _check("SC104", title, "warn", "no calibration could be estimated")
    off = [e for e in judged if not _contains(e, MEASURES[e.metric].neutral)]
    if off:
        return _check("SC104", title, "fail", f"away from its ideal: {_listed(off)}")
    if len(judged) < len(found):
        lost = f"{len(found) - len(judged)} of {len(found)} could not be estimated"
        return _check("SC104", title, "warn", f"{lost}; else no disagreement: {_listed(judged)}")
    return _check("SC104", title, "pass", f"no disagreement was shown: {_listed(judged)}")


def _gain(given: CheckInput) -> Check:
    title = "Gain over the clinical comparator"
    if given.comparator is None:
        return _check("SC105", title, "fail", "there is no clinical comparator")
    if given.comparator == given.candidate:
        return _check("SC105", title, "not applicable", "the candidate is the comparator")
    found = [
        e
        for e in _of_candidate(given, tuple(gain_of(m) for m in _RANKING))
        if e.over == given.comparator
    ]
    judged = [e for e in found if e.lower is not None and e.upper is not None]
    if not judged:
        return _check("SC105", title, "warn", "the gain could not be estimated")
    if any(e.upper is not None and e.upper < 0 for e in judged):
        return _check("SC105", title, "fail", f"worse than {given.comparator}: {_listed(judged)}")
    if all(e.lower is not None and e.lower > 0 for e in judged):
        return _check("SC105", title, "pass", f"over {given.comparator}: {_listed(judged)}")
    return _check("SC105", title, "warn", f"no gain was shown: {_listed(judged)}")


def _overlap(given: CheckInput) -> Check:
    title = "Development and validation patients are apart"
    if given.kind != "external":
        return _check("SC106", title, "not applicable", "no validation cohort")
    if given.n_overlapping is None:
        return _check("SC106", title, "fail", "not checked: patients' keys could not be compared")
    if given.n_overlapping:
        reason = f"{given.n_overlapping} patients or slides are in both"
        return _check("SC106", title, "fail", reason)
    return _check("SC106", title, "pass", "no patient, slide or feature array is in both")


def _missing(given: CheckInput) -> Check:
    title = "Clinical covariates are known"
    shares = [
        (cohort.name, name, share)
        for cohort in given.cohorts
        for name, share in cohort.missing_share.items()
    ]
    if not shares:
        return _check("SC107", title, "not applicable", "no clinical covariate is used")
    fail, warn = _MISSING_SHARE
    most = max(share for _, _, share in shares)
    status: Status = "fail" if most > fail else "warn" if most > warn else "pass"
    worst = [item for item in shares if item[2] > warn] or [max(shares, key=lambda item: item[2])]
    reason = "; ".join(f"{name} in {cohort}: {share:.0%} missing" for cohort, name, share in worst)
    return _check("SC107", title, status, reason)


def _sites(given: CheckInput) -> Check:
    title = "Development saw more than one site"
    known = [cohort for cohort in given.development if cohort.n_sites is not None]
    if not given.development:
        return _check("SC108", title, "not applicable", "development is not described here")
    if len(known) < len(given.development):
        return _check("SC108", title, "warn", "a development cohort declares no site")
    sites = sum(cohort.n_sites or 0 for cohort in known)
    status: Status = "pass" if sites > 1 else "warn"
    return _check("SC108", title, status, f"{sites} site{'' if sites == 1 else 's'}")


def _pretraining(given: CheckInput) -> Check:
    title = "The encoder was not pre-trained on these data"
    if given.encoder is None:
        return _check("SC109", title, "not applicable", "no encoder, or it is not known")
    seen = [c.name for c in given.cohorts if given.encoder in c.encoders_seen]
    if seen:
        reason = (
            f"{given.encoder} is declared to be pre-trained on the source of {', '.join(seen)}: "
            "its features are not external there"
        )
        return _check("SC109", title, "warn", reason)
    declared = any(cohort.encoders_seen for cohort in given.cohorts)
    if declared:
        return _check("SC109", title, "pass", f"{given.encoder} is not among those declared")
    return _check("SC109", title, "not applicable", "no cohort declares pre-trained encoders")


def _simulated(given: CheckInput) -> Check:
    simulated = [cohort.name for cohort in given.cohorts if cohort.simulated]
    if simulated:
        reason = f"simulated: {', '.join(simulated)}; nothing here is about patients"
        return _check("SC110", "All patients are real", "warn", reason)
    return _check("SC110", "All patients are real", "pass", "no cohort is declared simulated")


def _better_than_chance(given: CheckInput) -> Check:
    title = "The candidate ranks better than chance"
    found = [e for e in _of_candidate(given, _RANKING) if e.level is None]
    judged = [e for e in found if e.lower is not None]
    if not judged:
        return _check("SC111", title, "warn", "no measure of ranking could be estimated")
    if all(e.lower is not None and e.lower > (MEASURES[e.metric].neutral or 0) for e in judged):
        return _check("SC111", title, "pass", _listed(judged))
    return _check("SC111", title, "fail", f"not shown: {_listed(judged)}")


def _fusion_parts(given: CheckInput) -> Check:
    title = "Each part of each fusion is among the models"
    fusions = [model for model, seen in given.inputs.items() if len(seen) > 1]
    if not fusions:
        reason = "no model fuses inputs, or they are not known"
        return _check("SC112", title, "not applicable", reason)
    missing = missing_parts(given.inputs)
    if missing:
        reason = "; ".join(
            f"no model sees {' or '.join(names)} alone, so what {model} adds to it is not known"
            for model, names in missing.items()
        )
        return _check("SC112", title, "warn", reason)
    return _check("SC112", title, "pass", f"for {', '.join(fusions)}, each input has its own model")


def _of_candidate(given: CheckInput, metrics: tuple[str, ...]) -> list[Estimate]:
    return [e for e in given.estimates if e.model == given.candidate and e.metric in metrics]


def _contains(estimate: Estimate, value: float | None) -> bool:
    if estimate.lower is None or estimate.upper is None or value is None:
        return False
    return estimate.lower <= value <= estimate.upper


def _listed(estimates: Iterable[Estimate]) -> str:
    return "; ".join(_in_words(estimate) for estimate in estimates)


def _in_words(e: Estimate) -> str:
    at = "" if e.horizon_months is None else f" at {e.horizon_months:g} months"
    at += "" if e.level is None else f" of {e.level}"
    numbers = f"{e.value:.3f} ({e.lower:.3f} to {e.upper:.3f})"
    return f"{label_of(e.metric)}{at} on {e.cohort} {numbers}"
