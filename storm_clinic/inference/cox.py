"""Cox regression for inference: coefficients, errors and tests as R's ``coxph`` gives them."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace

import numpy as np
from numpy.typing import ArrayLike

from storm_clinic.cohort.outcome import Floats, Survival
from storm_clinic.errors import StatisticsError
from storm_clinic.inference.fitted import ChiSquare, FittedModel, check_columns, checked_design
from storm_clinic.inference.partial_likelihood import PartialLikelihood

_MAX_STEPS = 60
_TOLERANCE = 1e-12
# Share of the information at zero that every direction keeps if there is a maximum.
_COLLAPSED = 1e-6


@dataclass(frozen=True, eq=False)
class CoxFit(FittedModel):
    """A fitted Cox regression, with what further tests and residuals need.

    Attributes
    ----------
    design : float64 array, shape (n_patients, p)
    likelihood : PartialLikelihood
    model_covariance : float64 array, shape (p, p)
        Inverse of the information; equals ``covariance`` unless that is robust.
    """

    design: Floats = field(repr=False)
    likelihood: PartialLikelihood = field(repr=False)
    model_covariance: Floats = field(repr=False)

    @property
    def linear_predictor(self) -> Floats:
        """Log hazard of each patient, shape (n_patients,), up to a constant."""
        return np.asarray(self.design @ self.coefficients)

    def dfbeta(self) -> Floats:
        """How far each patient moves each coefficient, shape (n_patients, p)."""
        residuals = self.likelihood.score_residuals(self.design, self.linear_predictor)
        return np.asarray(residuals @ self.model_covariance)


def fit_cox(
    design: Floats,
    outcome: Survival,
    *,
    names: Sequence[str],
    weights: ArrayLike | None = None,
    strata: ArrayLike | None = None,
    clusters: ArrayLike | None = None,
) -> CoxFit:
    """Cox regression with Efron's ties.

    Parameters
    ----------
    design : float64 array, shape (n_patients, p)
        No missing value, no constant column, none that follows from others.
    outcome : Survival
        Entry times are honoured: a patient is at risk from after entry up to the time.
    names : sequence of str, length p
        Of the columns.
    weights : array, shape (n_patients,), optional
        Case weights, 0 or more; a patient of weight 0 is absent.
    strata : array, shape (n_patients,), optional
        Labels of strata with baseline hazards of their own.
    clusters : array, shape (n_patients,), optional
        Labels of patients who may resemble each other, e.g. sites. The covariance is then Lin and
        Wei's sandwich over clusters; one label a patient gives R's ``robust = TRUE``.

    Returns
    -------
    CoxFit

    Raises
    ------
    StatisticsError
        If no event happened, the design cannot be used, or covariates separate those with from
        those without events so that a coefficient has no maximum.

    References
    ----------
    Cox, JRSS B 34 (1972) 187-220. Lin and Wei, JASA 84 (1989) 1074-1078.
    """
    columns = checked_design(design, outcome.n_patients, names)
    if weights is not None:
        weights, present = _present(weights, outcome.n_patients)
        outcome, columns, weights = outcome.take(present), columns[present], weights[present]
        strata = None if strata is None else np.asarray(strata)[present]
        clusters = None if clusters is None else np.asarray(clusters)[present]
        check_columns(columns, names)
    likelihood = PartialLikelihood(outcome, weights=weights, strata=strata)
    centre, scale = columns.mean(axis=0), columns.std(axis=0)
    scaled = (columns - centre) / scale
    zero = np.zeros(len(centre))
    first_score, at_zero = likelihood.score_and_information(scaled, scaled @ zero)
    _check_information(at_zero, names)
    beta, information = maximise(
        lambda b: likelihood.log_likelihood(scaled @ b),
        lambda b: likelihood.score_and_information(scaled, scaled @ b),
        at_zero,
        names,
    )
    covariance = np.linalg.inv(information) / np.outer(scale, scale)
    fit = CoxFit(
        names=tuple(names),
        coefficients=beta / scale,
        covariance=covariance,
        log_likelihood=likelihood.log_likelihood(scaled @ beta),
        null_log_likelihood=likelihood.log_likelihood(scaled @ zero),
        score_test=ChiSquare(
            float(first_score @ np.linalg.solve(at_zero, first_score)), len(names)
        ),
        n_patients=outcome.n_patients,
        n_events=outcome.n_events,
        design=columns,
        likelihood=likelihood,
        model_covariance=covariance,
    )
    return fit if clusters is None else _clustered(fit, clusters)


def maximise(
    value: Callable[[Floats], float],
    derivatives: Callable[[Floats], tuple[Floats, Floats]],
    at_zero: Floats,
    names: Sequence[str],
) -> tuple[Floats, Floats]:
    """Newton's method with step halving from 0; the maximum and the information there.

    Parameters
    ----------
    value, derivatives : callables
        Log-likelihood of coefficients of columns on comparable scales; its score and information.
    at_zero : float64 array, shape (p, p)
        Information with all coefficients 0, by which flatness is judged.
    names : sequence of str, length p

    Raises
    ------
    StatisticsError
        If the likelihood keeps rising along some direction.
    """
    beta = np.zeros(len(at_zero))
    best = value(beta)
    for _ in range(_MAX_STEPS):
        score, information = derivatives(beta)
        if _collapsed(information, at_zero):
            break
        step = np.linalg.solve(information, score)
        if float(score @ step) < _TOLERANCE:
            return beta + step, derivatives(beta + step)[1]
        size, new = 1.0, value(beta + step)
        while not new > best and size > 1e-10:
            size /= 2
            new = value(beta + size * step)
        beta, best = beta + size * step, max(new, best)
    name = names[int(np.argmax(np.abs(beta)))]
    raise StatisticsError(
        f"no finite coefficient fits these data: {name} separates patients with from those "
        "without the event (monotone likelihood)",
        fix="Leave that covariate out, join its rare levels, or wait for more events.",
    )


def _collapsed(information: Floats, at_zero: Floats) -> bool:
    if not np.isfinite(information).all():
        return True
    shares = np.linalg.eigvals(np.linalg.solve(at_zero, information)).real
    return bool(shares.min() < _COLLAPSED)


def _check_information(at_zero: Floats, names: Sequence[str]) -> None:
    """Refuse columns that do not vary among patients at risk together (e.g. within strata)."""
    own = np.diag(at_zero)
    flat = own <= 1e-10 * max(float(own.max()), 1e-300)
    if flat.any():
        which = ", ".join(name for name, bad in zip(names, flat, strict=True) if bad)
        raise StatisticsError(
            f"{which} is the same in all patients who are at risk together when an event happens",
            fix="Leave that covariate out, or do not stratify by it.",
        )
    correlation = at_zero / np.sqrt(np.outer(own, own))
    if np.linalg.eigvalsh(correlation).min() < 1e-10:
        raise StatisticsError(
            f"these events cannot tell the covariates apart ({', '.join(names)})",
            fix="Leave some covariates out: there are too few events for so many.",
        )


def _present(weights: ArrayLike, n: int) -> tuple[Floats, np.ndarray]:
    array = np.asarray(weights, dtype=np.float64)
    if array.shape != (n,) or not np.isfinite(array).all() or (array < 0).any():
        raise StatisticsError("case weights must be one number of 0 or more a patient")
    if not (array > 0).any():
        raise StatisticsError("all case weights are 0")
    return array, np.flatnonzero(array > 0)


def _clustered(fit: CoxFit, clusters: ArrayLike) -> CoxFit:
    labels = np.asarray(clusters)
    if labels.shape != (fit.n_patients,):
        raise StatisticsError(f"clusters of shape {labels.shape} for {fit.n_patients} patients")
    codes = np.unique(labels, return_inverse=True)[1]
    if codes.max() == 0:
        raise StatisticsError("all patients are in one cluster", fix="Two or more are needed.")
    summed = np.zeros((codes.max() + 1, len(fit.names)))
    np.add.at(summed, codes, fit.dfbeta())
    return replace(fit, covariance=summed.T @ summed)
