"""Linear predictors: Cox by Newton's method, and logistic regression."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from storm_clinic.cohort.outcome import Classes, Outcome, Survival
from storm_clinic.errors import TrainingError
from storm_clinic.heads.objectives import objective_for
from storm_clinic.heads.survival import CoxLikelihood

Floats = NDArray[np.float64]

_MAX_STEPS = 50
_TOLERANCE = 1e-9
_COLLAPSED = 1e-6  # share of the information at zero that a covariate keeps if it has a maximum


def fit_cox(design: Floats, outcome: Survival, *, ridge: float = 0.0) -> Floats:
    """Cox regression with Efron ties by Newton's method with step halving.

    Parameters
    ----------
    design : float64 array, shape (n_patients, n_covariates)
        On comparable scales if there is a ridge.
    outcome : Survival
        Entry times are used where there are any.
    ridge : float
        Weight of half the squared coefficients beside the log partial likelihood per event.

    Returns
    -------
    float64 array, shape (n_covariates,)
        Log hazard ratios.

    Raises
    ------
    TrainingError
        If no event happened, covariates depend on each other, or one separates the events so
        that its coefficient has no maximum.
    """
    likelihood = CoxLikelihood(outcome)
    coefficients = np.zeros(design.shape[1])
    loss, gradient = _penalised(likelihood, design, coefficients, ridge)
    at_zero = likelihood.information(design @ coefficients, design)
    for _ in range(_MAX_STEPS):
        information = likelihood.information(design @ coefficients, design)
        step = _solve(information + ridge * np.eye(len(coefficients)), gradient)
        if float(gradient @ step) < _TOLERANCE:
            if ridge == 0 and _collapsed(information, at_zero):
                break
            return coefficients - step
        size = 1.0
        new_loss, new_gradient = _penalised(likelihood, design, coefficients - step, ridge)
        while new_loss > loss and size > 1e-8:
            size /= 2
            moved = coefficients - size * step
            new_loss, new_gradient = _penalised(likelihood, design, moved, ridge)
        coefficients, loss, gradient = coefficients - size * step, new_loss, new_gradient
    raise TrainingError(
        "Cox regression has no maximum: covariates separate those with from those without events",
        fix="Set a ridge above 0, or leave that covariate out.",
    )


def _penalised(
    likelihood: CoxLikelihood, design: Floats, coefficients: Floats, ridge: float
) -> tuple[float, Floats]:
    loss, by_risk = likelihood.loss(design @ coefficients)
    penalty = ridge * coefficients
    return loss + float(penalty @ coefficients) / 2, design.T @ by_risk + penalty


def _solve(information: Floats, gradient: Floats) -> Floats:
    if np.linalg.cond(information) > 1e14:
        raise TrainingError(
            "Cox regression cannot tell some covariates apart",
            fix="Set a ridge above 0, or leave out covariates that follow from others.",
        )
    return np.asarray(np.linalg.solve(information, gradient))


def _collapsed(information: Floats, at_zero: Floats) -> bool:
    """Whether the likelihood has gone flat along some direction: its maximum lies at infinity."""
    shares = np.linalg.eigvals(np.linalg.solve(at_zero, information)).real
    return bool(shares.min() < _COLLAPSED)


def fit_logistic(design: Floats, outcome: Classes, *, ridge: float) -> tuple[Floats, Floats]:
    """Logistic regression (multinomial for more than two levels) by L-BFGS.

    Parameters
    ----------
    design : float64 array, shape (n_patients, n_covariates)
        On comparable scales.
    outcome : Classes
        Two levels or more.
    ridge : float
        Weight of half the squared coefficients beside the mean log-likelihood; positive.

    Returns
    -------
    float64 array, shape (n_covariates, n_levels - 1)
        Log odds ratios against the first level.
    float64 array, shape (n_levels - 1,)
        Intercepts.

    Raises
    ------
    TrainingError
        If a class has no patient.
    """
    from sklearn.linear_model import LogisticRegression

    objective_for(outcome)  # refuses classes without a patient
    model = LogisticRegression(C=1.0 / (ridge * len(outcome)), tol=1e-8, max_iter=5000)
    model.fit(design, outcome.label)
    slopes = np.asarray(model.coef_, dtype=np.float64).T
    intercepts = np.asarray(model.intercept_, dtype=np.float64)
    if len(outcome.levels) > 2:
        slopes, intercepts = slopes[:, 1:] - slopes[:, :1], intercepts[1:] - intercepts[0]
    return slopes, intercepts


def fit_linear(design: Floats, outcome: Outcome, *, ridge: float) -> tuple[Floats, Floats]:
    """Coefficients (n_covariates, n_outputs) and intercepts (n_outputs,) for either outcome."""
    if isinstance(outcome, Survival):
        return fit_cox(design, outcome, ridge=ridge)[:, None], np.zeros(1)
    if isinstance(outcome, Classes):
        return fit_logistic(design, outcome, ridge=ridge)
    raise TrainingError("a linear model cannot be fitted to competing risks")
