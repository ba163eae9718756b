"""Cox regression for inference: Efron ties, entry times, case weights, strata, robust errors."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import ArrayLike

from storm_clinic.cohort.outcome import Floats, Ints, Survival
from storm_clinic.errors import StatisticsError
from storm_clinic.inference.fitted import ChiSquared, CoxFit
from storm_clinic.inference.maximum import as_design, maximise
from storm_clinic.inference.partial_likelihood import PartialLikelihood, Stratum
from storm_clinic.metrics.resampling import label_codes

_FEW_EVENTS = 10  # events per coefficient below which coefficients are known to be biased


def fit_cox(
    design: ArrayLike,
    outcome: Survival,
    *,
    names: Sequence[str],
    weights: ArrayLike | None = None,
    strata: ArrayLike | None = None,
    robust: bool = False,
    clusters: ArrayLike | None = None,
) -> CoxFit:
    """Cox regression by maximum partial likelihood, as R's ``coxph`` (ties by Efron).

    Parameters
    ----------
    design : float array, shape (n_patients, p)
        Covariates, finite, none constant and none that follows from others.
    outcome : Survival, length n_patients
        Entry times are honoured: at risk is who has ``entry < t <= time``.
    names : sequence of str, length p
        Of the covariates.
    weights : float array, shape (n_patients,), optional
        Case weights, not negative; a patient of weight 0 is absent, also from ties.
    strata : array, shape (n_patients,), optional
        Labels; each stratum has a baseline hazard of its own.
    robust : bool
        Sandwich covariance instead of the inverse information.
    clusters : array, shape (n_patients,), optional
        Labels, e.g. sites; score residuals are summed inside them first. Implies ``robust``.

    Raises
    ------
    StatisticsError
        If no event happened, a column is constant or follows from others, or a covariate
        separates patients with from those without events (no finite maximum).

    References
    ----------
    Efron, JASA 72 (1977) 557-565. Lin & Wei, JASA 84 (1989) 1074-1078. Therneau & Grambsch,
    Modeling Survival Data (2000), ch. 3 and 7.
    """
    w = as_weights(weights, outcome.n_patients)
    here = np.flatnonzero(w > 0)
    kept = outcome.take(here)
    require_events(kept.n_events, kept.n_patients, "Cox regression")
    matrix = as_design(np.asarray(design, dtype=np.float64)[here], kept.n_patients, names)
    codes = None if strata is None else label_codes(strata, outcome.n_patients, "strata")[here]
    likelihood = partial_likelihood(kept, w[here], codes)
    centre, scale = matrix.mean(axis=0), matrix.std(axis=0)
    standard = (matrix - centre) / scale
    top = maximise(likelihood.evaluator(standard), len(names), names, "Cox regression")
    naive = np.linalg.inv(top.there.information)
    covariance, errors = naive, ""
    if robust or clusters is not None:
        moved = (w[here, None] * likelihood.residuals(standard, top.at)) @ naive
        errors = "; robust (sandwich) errors"
        if clusters is not None:
            of = label_codes(clusters, outcome.n_patients, "clusters")[here]
            moved = sum_by(moved, of)
            errors += f", {len(np.unique(of))} clusters"
        covariance = moved.T @ moved
    by_scale = np.outer(scale, scale)
    zero = top.at_zero
    score = float(zero.gradient @ np.linalg.solve(zero.information, zero.gradient))
    stratified = "" if codes is None else f", {len(np.unique(codes))} strata"
    return CoxFit(
        kind="cox",
        names=tuple(names),
        coefficients=top.at / scale,
        covariance=covariance / by_scale,
        naive_covariance=naive / by_scale,
        log_likelihood=top.there.value,
        null_log_likelihood=zero.value,
        score_test=ChiSquared(score, len(names)),
        n_patients=kept.n_patients,
        n_events=kept.n_events,
        method=f"Cox regression, Efron ties{stratified}{errors}",
        note=few_events(kept.n_events, len(names)),
    )


def partial_likelihood(
    outcome: Survival, weights: Floats, strata: Ints | None = None
) -> PartialLikelihood:
    """Risk sets of an outcome, one a stratum."""
    codes = np.zeros(outcome.n_patients, dtype=np.int64) if strata is None else strata
    rows = [np.flatnonzero(codes == code) for code in np.unique(codes)]
    entry = outcome.entry_months
    if entry is not None and not (entry > 0).any():
        entry = None
    return PartialLikelihood(
        [
            Stratum(
                outcome.time_months[at],
                outcome.event[at],
                weights[at],
                None if entry is None else entry[at],
            )
            for at in rows
        ],
        rows,
    )


def as_weights(weights: ArrayLike | None, n_patients: int) -> Floats:
    """Case weights, finite and not negative; 1 where none are given."""
    if weights is None:
        return np.ones(n_patients)
    array = np.asarray(weights, dtype=np.float64)
    if array.shape != (n_patients,) or not (np.isfinite(array) & (array >= 0)).all():
        raise StatisticsError(
            f"case weights of shape {array.shape} for {n_patients} patients, or one below 0",
            fix="One finite weight of at least 0 a patient is needed.",
        )
    return array


def require_events(n_events: int, n_patients: int, what: str) -> None:
    """Refuse outcomes without a single event."""
    if n_events == 0:
        raise StatisticsError(
            f"{what} needs events, and none of {n_patients} patients had one",
            fix="Check the endpoint, or wait for more follow-up.",
        )


def few_events(n_events: int, n_coefficients: int, what: str = "events") -> str:
    """A caution where there are fewer than ten events a coefficient; empty where not."""
    if n_events >= _FEW_EVENTS * n_coefficients:
        return ""
    fewer = f"fewer {what} than coefficients: " if n_events < n_coefficients else ""
    return (
        f"{fewer}{n_events} {what} for {n_coefficients} coefficients "
        f"(fewer than {_FEW_EVENTS} each); estimates are pulled away from 0 and intervals too short"
    )


def sum_by(values: Floats, codes: Ints) -> Floats:
    """Rows summed inside clusters."""
    _, of = np.unique(codes, return_inverse=True)
    total = np.zeros((int(of.max()) + 1, values.shape[1]))
    np.add.at(total, of, values)
    return total
