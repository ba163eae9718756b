"""Where a network starts: what the covariates say alone, under the network's own objective."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray
from scipy.optimize import minimize

from storm_clinic.heads.objectives import Objective

Floats = NDArray[np.float64]

_RIDGE = 0.01  # shrinks a well-supported coefficient by about 1% and keeps a separating one finite
_MOST_STEPS = 200


def fit_start(design: Floats, objective: Objective) -> tuple[Floats, Floats]:
    """Coefficients and intercepts of a linear model of the covariates, with a small ridge.

    Parameters
    ----------
    design : float64 array, shape (n_patients, n_covariates)
        On comparable scales; may have no column.
    objective : Objective
        Knows the outcomes.

    Returns
    -------
    float64 array, shape (n_covariates, n_outputs)
        Zero for outputs that all patients share.
    float64 array, shape (n_outputs,)
    """
    n_covariates, n_outputs = design.shape[1], objective.n_outputs
    start = objective.start()
    slopes = np.zeros((n_covariates, n_outputs))
    if not n_covariates:
        return slopes, start

    def penalised(theta: Floats) -> tuple[float, Floats]:
        free = theta.reshape(n_covariates + 1, n_outputs)
        own = free[:-1] * ~objective.shared
        loss, by_output = objective.loss(design @ own + free[-1])
        by_slopes = (design.T @ by_output) * ~objective.shared + _RIDGE * own
        gradient = np.vstack([by_slopes, by_output.sum(axis=0)])
        return loss + _RIDGE * float((own**2).sum()) / 2, gradient.ravel()

    first = np.vstack([slopes, start]).ravel()
    found = minimize(
        penalised, first, jac=True, method="L-BFGS-B", options={"maxiter": _MOST_STEPS}
    ).x.reshape(n_covariates + 1, n_outputs)
    return found[:-1] * ~objective.shared, found[-1]
