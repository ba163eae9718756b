"""Whether there are enough patients and events: which precision a study can reach, said first.

Of a validation the widths are those that these patients give if the predictions are right (slope 1,
observed/expected 1), so that they do not depend on how the model did. Of a development the number
of parameters and an R² that is assumed, not estimated, say how many patients would be needed.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np

from storm_clinic.cohort.outcome import Classes, CompetingRisks, Floats, Survival
from storm_clinic.errors import PredictionsError, StatisticsError
from storm_clinic.inference import sample_size_survival as survival
from storm_clinic.inference import sample_size_validation as binary
from storm_clinic.metrics.calibration import complementary_log_log, log_odds
from storm_clinic.metrics.classes import one_against_rest
from storm_clinic.metrics.inputs import Timed
from storm_clinic.validation.adequacy_development import development_adequacy
from storm_clinic.validation.adequacy_widths import Ledger, Targets
from storm_clinic.validation.analyses import Adequacy
from storm_clinic.validation.evaluation_data import EvaluationData

_UNKNOWN_C = 0.7  # assumed where predictions have no scale from which C could be expected
_ASSUMED = (
    "Assumed: predictions are right (slope 1, observed/expected 1). Observed: predictions of "
)
_TIMED = (
    _ASSUMED + "the candidate, times of events and of censoring. C: mean jackknife error over "
    "simulated validations (Riley et al. 2022); AUC: Newcombe 2006; observed/expected: error of "
    "{curve}; slope: information of Cox's partial likelihood at slope 1."
)
_BINARY = (
    _ASSUMED + "the candidate, share of events. AUROC: Newcombe 2006; observed/expected and slope: "
    "Riley et al. 2021."
)
_FIRST = "predictions of the first repeat of cross-validation"


def adequacy(
    data: EvaluationData,
    n_parameters: int | None = None,
    *,
    learned: Sequence[str] = (),
    targets: Targets | None = None,
) -> tuple[Adequacy, ...]:
    """Precision that these patients can reach; with cross-validation also whether they suffice.

    Parameters
    ----------
    data : EvaluationData
        External, or out-of-fold predictions on the development cohort.
    n_parameters : int, optional
        Candidate parameters of the clinical (or another tabular) model; None where they are not
        known. Used for cross-validation only.
    learned : sequence of str
        Models that learn representations from images: no formula counts their parameters.
    targets : Targets, optional
        Widths of intervals that are aimed at.

    Returns
    -------
    tuple of Adequacy
        Of validation, and before it of development for ``data.kind == "cross-validation"``. What
        the data cannot give has its reason in the requirement's note.
    """
    aims, outcome = targets or Targets(), data.outcome
    found = (
        _classes(data, outcome, aims)
        if isinstance(outcome, Classes)
        else _timed(data, outcome, aims)
    )
    if data.kind == "external":
        return (found,)
    return (development_adequacy(data, n_parameters, learned), found)


def _timed(data: EvaluationData, outcome: Timed, aims: Targets) -> Adequacy:
    ledger = _ledger(data, outcome.n_patients, outcome.n_events, aims)
    alone, curve = outcome, "Kaplan-Meier"
    if isinstance(alone, CompetingRisks):
        alone, curve = alone.cause_specific(), "Aalen-Johansen"
        ledger.notes.append("for C and slope other causes count as end of follow-up")
    horizons = data.endpoint.horizons_months
    ledger.width("C", aims.c, _c_error(data, alone, ledger), digits=3, said=True)
    for horizon in horizons:
        at = f" at {horizon:g} months"
        ledger.width(f"AUC{at}", aims.c, _auc_error(data, outcome, horizon), digits=3, said=False)
        ledger.ratio(
            f"observed/expected{at}", _risk_error(outcome, horizon), said=horizon == horizons[-1]
        )
    ledger.width(
        "the calibration slope",
        aims.slope,
        lambda: survival.cox_slope_error(alone, _log_hazard(data, outcome)),
        digits=2,
        said=True,
    )
    return ledger.adequacy(_TIMED.format(curve=curve))


def _log_hazard(data: EvaluationData, outcome: Timed) -> Floats:
    """The candidate's linear predictor, from its risk at the last horizon that is followed."""
    horizons = data.endpoint.horizons_months
    if not horizons:
        raise StatisticsError("no horizon is named, so that no risk gives a linear predictor")
    followed = [h for h in horizons if h < outcome.time_months.max()] or horizons[:1]
    return complementary_log_log(data.model(data.candidate).risk_by(followed[-1])[0])


def _c_error(data: EvaluationData, alone: Survival, ledger: Ledger) -> Callable[[], float]:
    crossed = data.kind == "cross-validation"

    def error() -> float:
        try:
            return survival.survival_c_error(
                alone,
                _log_hazard(data, alone),
                tau_months=data.endpoint.tau_months,
                within=data.model(data.candidate).fold[0] if crossed else None,
                seed=data.seed,
            )
        except (StatisticsError, PredictionsError) as problem:
            share = survival.event_share(alone)
            why = str(problem).rstrip(".")
            ledger.notes.append(f"for C, {_UNKNOWN_C:g} is assumed with Newcombe's formula: {why}")
            return binary.c_error(_UNKNOWN_C, alone.n_patients, share)

    return error


def _auc_error(data: EvaluationData, outcome: Timed, horizon: float) -> Callable[[], float]:
    def error() -> float:
        known, cases = survival.known_by(outcome, horizon)
        if not 0 < cases < known:
            raise StatisticsError(
                f"of {known} patients whose state at {horizon:g} months is known {cases} had the "
                "event: no two can be compared"
            )
        promised = binary.expected_c(log_odds(data.model(data.candidate).risk_by(horizon)[0]))
        return binary.c_error(promised, known, cases / known)

    return error


def _risk_error(outcome: Timed, horizon: float) -> Callable[[], float]:
    def error() -> float:
        risk, found = survival.horizon_risk(outcome, horizon)
        return found / risk

    return error


def _classes(data: EvaluationData, outcome: Classes, aims: Targets) -> Adequacy:
    level, others = outcome.levels[-1], len(outcome.levels) > 2
    if others:
        counts = np.bincount(outcome.label, minlength=len(outcome.levels))
        level = outcome.levels[int(counts.argmin())]
        outcome = one_against_rest(outcome, level)
    n = outcome.n_patients
    ledger = _ledger(data, n, outcome.n_events, aims)
    if others:
        ledger.notes.append(f"about {level}, the rarest class, against the rest")

    def predictor() -> tuple[Floats, float]:
        share = survival.event_share(outcome)  # first: without both classes nothing is defined
        return log_odds(data.model(data.candidate).column(f"p_{level}")[0]), share

    def c_error() -> float:
        log_odds_of, share = predictor()
        return binary.c_error(binary.expected_c(log_odds_of), n, share)

    ledger.width("AUROC", aims.c, c_error, digits=3, said=True)
    ledger.ratio(
        "observed/expected",
        lambda: binary.observed_expected_error(n, survival.event_share(outcome)),
        said=True,
    )
    ledger.width(
        "the calibration slope",
        aims.slope,
        lambda: binary.logistic_slope_error(predictor()[0], n),
        digits=2,
        said=True,
    )
    return ledger.adequacy(_BINARY)


def _ledger(data: EvaluationData, n_patients: int, n_events: int, aims: Targets) -> Ledger:
    notes = [_FIRST] if data.kind == "cross-validation" else []
    return Ledger(data.cohort, n_patients, n_events, aims, notes=notes)
