"""Linear predictors: Cox by Newton's method, Weibull and logistic regression."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.optimize import minimize

from storm_clinic.cohort.outcome import Classes, Survival
from storm_clinic.errors import TrainingError
from storm_clinic.heads.objectives import ClassObjective
from storm_clinic.heads.survival import CoxLikelihood, Ties
from storm_clinic.heads.weibull import WeibullObjective

Floats = NDArray[np.float64]

_MAX_STEPS = 50
_TOLERANCE = 1e-9
_SINGULAR = 1e14  # condition above which an information matrix is that of dependent covariates
_FIX_DEPENDENT = "Set a ridge above 0, or leave out covariates that follow from others."
_FIX_SEPARATED = "Set a ridge above 0, or leave that covariate out."
_LOG_SIGMA = (-5.0, 5.0)
_COLLAPSED = 1e-6  # share of the information at zero that a covariate keeps if it has a maximum


@dataclass(frozen=True, eq=False)
class LinearPredictor:
    """Outputs that are linear in the design matrix.

    Attributes
    ----------
    coefficients : float64 array, shape (n_columns, n_outputs)
    intercepts : float64 array, shape (n_outputs,)
    notes : tuple of str
        What was unusual about the outcomes it was fitted to.
    """

    coefficients: Floats
    intercepts: Floats
    notes: tuple[str, ...] = ()

    def outputs(self, matrix: Floats) -> Floats:
        """Raw outputs, shape (n_patients, n_outputs)."""
        # Summed patient by patient: a matrix product rounds by how many patients come together.
        terms = matrix[:, :, None] * self.coefficients[None]
        return np.asarray(terms.sum(axis=1) + self.intercepts)

    def state(self) -> tuple[dict[str, NDArray[Any]], dict[str, Any]]:
        """Arrays and JSON settings to store."""
        arrays = {"coefficients": self.coefficients, "intercepts": self.intercepts}
        return arrays, {"notes": list(self.notes)}

    @classmethod
    def from_state(
        cls, arrays: Mapping[str, NDArray[Any]], settings: Mapping[str, Any]
    ) -> LinearPredictor:
        """The same, from what was stored."""
        return cls(arrays["coefficients"], arrays["intercepts"], tuple(settings["notes"]))


def fit_cox(
    design: Floats, outcome: Survival, *, ridge: float = 0.0, ties: Ties = "efron"
) -> Floats:
    """Cox regression by Newton's method with step halving.

    Parameters
    ----------
    design : float64 array, shape (n_patients, n_covariates)
        On comparable scales if there is a ridge.
    outcome : Survival
        Entry times are used where there are any.
    ridge : float
        Weight of half the squared coefficients beside the log partial likelihood per event.
    ties : "efron" or "breslow"
        How tied events are counted.

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
    likelihood = CoxLikelihood(outcome, ties)
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
        fix=_FIX_SEPARATED,
    )


def _penalised(
    likelihood: CoxLikelihood, design: Floats, coefficients: Floats, ridge: float
) -> tuple[float, Floats]:
    loss, by_risk = likelihood.loss(design @ coefficients)
    penalty = ridge * coefficients
    return loss + float(penalty @ coefficients) / 2, design.T @ by_risk + penalty


def _solve(information: Floats, gradient: Floats) -> Floats:
    if np.linalg.cond(information) > _SINGULAR:
        raise TrainingError("Cox regression cannot tell some covariates apart", fix=_FIX_DEPENDENT)
    return np.asarray(np.linalg.solve(information, gradient))


def _collapsed(information: Floats, at_zero: Floats) -> bool:
    """Whether the likelihood has gone flat along some direction: its maximum lies at infinity."""
    shares = np.linalg.eigvals(np.linalg.solve(at_zero, information)).real
    return bool(shares.min() < _COLLAPSED)


def fit_weibull(design: Floats, outcome: Survival, *, ridge: float) -> tuple[Floats, Floats]:
    """Weibull regression ``log T = intercept + x b + sigma W`` by maximum likelihood.

    W has the standard extreme value distribution of minima, as in R's ``survreg``: a positive
    coefficient means longer times, and ``-b / sigma`` is a log hazard ratio.

    Parameters
    ----------
    design : float64 array, shape (n_patients, n_covariates)
        On comparable scales.
    outcome : Survival
        Entry times are used where there are any.
    ridge : float
        Weight of half the squared log time ratios beside the log-likelihood per event.

    Returns
    -------
    float64 array, shape (n_covariates, 2)
        Log time ratios; the second column, of log sigma, is 0.
    float64 array, shape (2,)
        Intercept, in logarithms of months, and log sigma.

    Raises
    ------
    TrainingError
        If no event happened, or the likelihood has no maximum.
    """
    objective = WeibullObjective(outcome)
    by_event = len(outcome) / outcome.n_events

    def penalised(theta: Floats) -> tuple[float, Floats]:
        slopes = theta[:-2]
        outputs = np.column_stack([design @ slopes + theta[-2], np.full(len(design), theta[-1])])
        loss, by_output = objective.loss(outputs)
        by_slopes = by_event * (design.T @ by_output[:, 0]) + ridge * slopes
        gradient = np.concatenate([by_slopes, by_event * by_output.sum(axis=0)])
        return by_event * loss + ridge * float(slopes @ slopes) / 2, gradient

    first = np.concatenate([np.zeros(design.shape[1]), objective.start()])
    # One event, or all at one time, has its maximum at a spike: sigma stays above e^-5.
    bounds = [(None, None)] * (len(first) - 1) + [_LOG_SIGMA]
    settings = {"maxiter": 10_000, "maxfun": 100_000, "ftol": 1e-15, "gtol": 1e-9}
    found = minimize(penalised, first, jac=True, method="L-BFGS-B", bounds=bounds, options=settings)
    if ridge == 0:
        _check_maximum(design, outcome, first, found.x)
    coefficients = np.column_stack([found.x[:-2], np.zeros(design.shape[1])])
    return coefficients, found.x[-2:].copy()


def _check_maximum(design: Floats, outcome: Survival, first: Floats, last: Floats) -> None:
    """Refuse covariates along which the Weibull likelihood is flat, or has gone flat."""
    columns = np.column_stack([design, np.ones(len(design))])

    def information(theta: Floats) -> Floats:
        expected = np.exp((np.log(outcome.time_months) - columns @ theta[:-1]) / np.exp(theta[-1]))
        return np.asarray(columns.T @ (expected[:, None] * columns))

    at_first = information(first)
    if np.linalg.cond(at_first) > _SINGULAR:
        raise TrainingError(
            "Weibull regression cannot tell some covariates apart", fix=_FIX_DEPENDENT
        )
    if _collapsed(information(last), at_first):
        raise TrainingError(
            "Weibull regression has no maximum: covariates separate those with from those "
            "without events",
            fix=_FIX_SEPARATED,
        )


def fit_logistic(
    design: Floats, outcome: Classes, *, ridge: float, balanced: bool = False
) -> tuple[Floats, Floats]:
    """Logistic regression (multinomial for more than two levels) by L-BFGS.

    Parameters
    ----------
    design : float64 array, shape (n_patients, n_covariates)
        On comparable scales.
    outcome : Classes
        Two levels or more.
    ridge : float
        Weight of half the squared coefficients beside the mean log-likelihood; positive.
    balanced : bool
        Weight patients so that every level weighs as much in all. The odds are then those of a
        population with as many patients of every level.

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

    ClassObjective(outcome)  # refuses classes without a patient
    model = LogisticRegression(
        C=1.0 / (ridge * len(outcome)),
        class_weight="balanced" if balanced else None,
        tol=1e-8,
        max_iter=5000,
    )
    model.fit(design, outcome.label)
    slopes = np.asarray(model.coef_, dtype=np.float64).T
    intercepts = np.asarray(model.intercept_, dtype=np.float64)
    if len(outcome.levels) > 2:
        slopes, intercepts = slopes[:, 1:] - slopes[:, :1], intercepts[1:] - intercepts[0]
    return slopes, intercepts
