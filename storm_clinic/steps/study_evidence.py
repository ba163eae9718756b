"""From predictions and outcomes to evidence: numbers, curves and checks together."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence

import numpy as np

from storm_clinic.cohort.outcome import Classes, CompetingRisks, Outcome
from storm_clinic.predictions import Predictions
from storm_clinic.steps.domain_record import domain_record
from storm_clinic.steps.evaluation_input import SITE, evaluation_data, lacking_subgroups
from storm_clinic.steps.evaluation_plan import EvaluationPlan
from storm_clinic.steps.further_analyses import analyse
from storm_clinic.steps.study_curves import draw_curves
from storm_clinic.steps.study_patients import Evaluated
from storm_clinic.study import Endpoint
from storm_clinic.validation.analyses import Analyses, CovariateProfile, FeatureDrift
from storm_clinic.validation.attributed_genes import GeneAttributions
from storm_clinic.validation.checks import CheckInput, CohortFacts, run_checks
from storm_clinic.validation.evidence import CohortOutcome, Evidence, Kind
from storm_clinic.validation.protocol import evaluate


def collect_evidence(
    plan: EvaluationPlan,
    predictions: Predictions,
    evaluated: Sequence[Evaluated],
    *,
    kind: Kind,
    development: Sequence[CohortFacts] = (),
    profiles: Sequence[CovariateProfile] = (),
    thresholds: Mapping[str, tuple[float, ...]] | None = None,
    clinical_parameters: int | None = None,
    n_overlapping: int | None = None,
    drift: Sequence[FeatureDrift] = (),
    attributions: Sequence[GeneAttributions] = (),
    notes: Sequence[str] = (),
    seconds: Mapping[str, float] | None = None,
) -> Evidence:
    """Judge every model of the predictions on every cohort.

    Parameters
    ----------
    plan : EvaluationPlan
        What is asked, and how it is resampled.
    predictions : Predictions
        Out-of-fold ones, or those of a locked model on cohorts it never saw.
    evaluated : sequence of Evaluated
        One a cohort; the same patients as the predictions.
    kind : {"cross-validation", "external"}
        Only external evidence supports claims.
    development : sequence of CohortFacts
        What the model was trained on, where ``evaluated`` is something else.
    profiles : sequence of CovariateProfile
        Of the patients the model was trained on, where ``evaluated`` are others.
    thresholds : mapping of model to cut points of its risk, optional
        Fixed on development data; needed for risk groups of external cohorts.
    clinical_parameters : int, optional
        Coefficients of the clinical comparator.
    n_overlapping : int, optional
        Patients or slides shared with development; None where nobody looked.
    drift : sequence of FeatureDrift
        How features differ from development's, found before outcomes were read.
    attributions : sequence of GeneAttributions
        Imputed genes behind the candidate's risks.
    notes : sequence of str
        What a reader must know, such as where a design differs from what was asked for.
    seconds : mapping of model to float, optional
        Wall seconds of fitting, all folds together.
    """
    comparator = plan.comparator if plan.comparator in predictions.models else None
    estimates = [
        estimate
        for item in evaluated
        for estimate in evaluate(
            predictions,
            item.patients.keys,
            item.outcome,
            cohort=item.patients.cohort.name,
            endpoint=plan.endpoint,
            candidate=plan.candidate,
            comparator=comparator,
            kind=kind,
            seed=plan.seed,
            bootstraps=plan.bootstraps,
            parts=plan.parts,
            thresholds=plan.threshold_grid,
            sites=item.patients.sites if SITE in item.patients.cohort.patients else None,
        )
    ]
    known = (domain_record(item.patients) for item in evaluated)
    domain = tuple(found for found in known if found is not None)
    analyses = Analyses(drift=tuple(drift), attributions=tuple(attributions), domain=domain)
    for item in evaluated:
        data = evaluation_data(plan, predictions, item, kind=kind, risk_cuts=thresholds or {})
        analyses += analyse(
            data, plan, development=profiles, clinical_parameters=clinical_parameters
        )
    role = "validation" if kind == "external" else "development"
    facts = [*development, *(cohort_facts(plan.endpoint, item, role) for item in evaluated)]
    checks = run_checks(
        CheckInput(
            kind=kind,
            estimates=estimates,
            cohorts=facts,
            candidate=plan.candidate,
            comparator=comparator,
            clinical_parameters=clinical_parameters,
            n_overlapping=n_overlapping,
            encoder=plan.encoder if evaluated[0].patients.store else None,
            inputs=plan.inputs,
            analyses=analyses,
            thresholds_named=plan.thresholds is not None if plan.from_study else None,
            cut_points_from="development" if kind == "external" and thresholds else None,
        )
    )
    curves = draw_curves(plan, predictions, evaluated, kind, thresholds or {})
    return Evidence(
        study=plan.name,
        study_digest=plan.digest,
        kind=kind,
        candidate=plan.candidate,
        comparator=comparator,
        estimates=tuple(estimates),
        checks=checks,
        risk_groups=curves.risk_groups,
        calibration=curves.calibration,
        classes=curves.classes,
        confusion=curves.confusion,
        analyses=analyses,
        outcomes=tuple(found for item in evaluated if (found := _composition(item)) is not None),
        digests={k: v for item in evaluated for k, v in item.patients.inputs.items()},
        notes=(
            *notes,
            *(note for item in evaluated for note in _lacking(item)),
            *(n for item in evaluated for n in lacking_subgroups(plan, item.patients.cohort)),
        ),
        seconds=dict(seconds or {}),
    )


def _lacking(item: Evaluated) -> Iterator[str]:
    """Inputs that some patients lack, in words."""
    n_patients = len(item.patients)
    for name, n in item.patients.lacking.items():
        if n:
            yield f"{item.patients.cohort.name}: {n} of {n_patients} patients have no {name}"


def cohort_facts(endpoint: Endpoint, item: Evaluated, role: str) -> CohortFacts:
    """What the checks must know of one cohort."""
    cohort, outcome = item.patients.cohort, item.outcome
    covariates = item.patients.data.clinical
    missing = {} if covariates is None else covariates.isna().mean().to_dict()
    return CohortFacts(
        name=cohort.name,
        role="validation" if role == "validation" else "development",
        n_patients=outcome.n_patients,
        n_events=_fewest(outcome),
        n_sites=len(set(item.patients.sites)) if "site" in cohort.patients else None,
        followed_beyond=_followed_beyond(endpoint, outcome),
        missing_share={str(name): float(share) for name, share in missing.items()},
        encoders_seen=cohort.origin.encoders_pretrained,
        simulated=cohort.origin.simulated,
    )


def _fewest(outcome: Outcome) -> int:
    """Events; of several classes, patients of the rarest, on which most depends."""
    if isinstance(outcome, Classes) and len(outcome.levels) > 2:
        return int(np.bincount(outcome.label, minlength=len(outcome.levels)).min())
    return outcome.n_events


def _followed_beyond(endpoint: Endpoint, outcome: Outcome) -> dict[float, int]:
    if isinstance(outcome, Classes):
        return {}
    horizons = endpoint.horizons_months
    return {horizon: int((outcome.time_months > horizon).sum()) for horizon in horizons}


def _composition(item: Evaluated) -> CohortOutcome | None:
    """Patients of each cause or class; None where there is one event."""
    outcome, cohort = item.outcome, item.patients.cohort.name
    if isinstance(outcome, CompetingRisks):
        n_censored, *counts = np.bincount(outcome.cause, minlength=len(outcome.causes) + 1).tolist()
        return CohortOutcome(
            cohort=cohort,
            kind="competing risks",
            names=outcome.causes,
            counts=tuple(counts),
            n_censored=n_censored,
        )
    if isinstance(outcome, Classes) and len(outcome.levels) > 2:
        counts = np.bincount(outcome.label, minlength=len(outcome.levels)).tolist()
        return CohortOutcome(
            cohort=cohort, kind="classes", names=outcome.levels, counts=tuple(counts)
        )
    return None
