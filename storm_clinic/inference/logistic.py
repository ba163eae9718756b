"""Logistic regression for inference, by maximum likelihood."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import ArrayLike
from scipy.special import expit

from storm_clinic.cohort.outcome import Floats
from storm_clinic.errors import StatisticsError
from storm_clinic.inference.cox import as_weights, few_events
from storm_clinic.inference.fitted import ChiSquared, LogisticFit
from storm_clinic.inference.maximum import Derivatives, as_design, maximise


def fit_logistic(
    design: ArrayLike,
    y: ArrayLike,
    *,
    names: Sequence[str],
    weights: ArrayLike | None = None,
) -> LogisticFit:
    """Logistic regression with an intercept, as R's ``glm(y ~ x, binomial)``.

    Parameters
    ----------
    design : float array, shape (n_patients, p)
        Covariates without the intercept, finite, none constant and none that follows from others.
    y : bool or 0/1 array, shape (n_patients,)
        1 where the event happened.
    names : sequence of str, length p
        Of the covariates.
    weights : float array, shape (n_patients,), optional
        Case weights, not negative.

    Raises
    ------
    StatisticsError
        If not both outcomes occur, a column is constant or follows from others, or a covariate
        separates the outcomes (no finite maximum).

    References
    ----------
    McCullagh & Nelder, Generalized Linear Models (1989), ch. 4. Albert & Anderson, Biometrika 71
    (1984) 1-10 (separation).
    """
    event = np.asarray(y)
    if event.ndim != 1 or not np.isin(event, (0, 1)).all():
        raise StatisticsError("outcomes must be 0 or 1, one a patient")
    w = as_weights(weights, len(event))
    kept = w > 0
    event, w = event[kept].astype(np.float64), w[kept]
    n_events = int(event.sum())
    # The rarer outcome limits what can be estimated.
    limiting = min(n_events, len(event) - n_events)
    rarer = "events" if limiting == n_events else "patients without the event"
    if not limiting:
        raise StatisticsError(
            f"{n_events} of {len(event)} patients had the event", fix="Both outcomes must occur."
        )
    matrix = as_design(np.asarray(design, dtype=np.float64)[kept], len(event), names)
    centre, scale = matrix.mean(axis=0), matrix.std(axis=0)
    x = np.column_stack([np.ones(len(event)), (matrix - centre) / scale])

    def evaluate(b: Floats) -> Derivatives:
        linear = x @ b
        p = expit(linear)
        value = float(w @ (event * linear - np.logaddexp(0, linear)))
        curved = (x * (w * p * (1 - p))[:, None]).T @ x
        return Derivatives(value, (w * (event - p)) @ x, curved)

    top = maximise(evaluate, x.shape[1], ("(intercept)", *names), "logistic regression")
    # From the centred, scaled columns back to those given.
    back = np.zeros((x.shape[1], x.shape[1]))
    back[0, 0], back[0, 1:], back[1:, 1:] = 1.0, -centre / scale, np.diag(1 / scale)
    coefficients = back @ top.at
    covariance = back @ np.linalg.inv(top.there.information) @ back.T
    share = float(w @ event / w.sum())
    null, score = _null(w, event, share, x)
    return LogisticFit(
        kind="logistic",
        names=tuple(names),
        coefficients=coefficients[1:],
        covariance=covariance[1:, 1:],
        log_likelihood=top.there.value,
        null_log_likelihood=null,
        score_test=ChiSquared(score, len(names)),
        n_patients=len(event),
        n_events=n_events,
        method="logistic regression",
        note=few_events(limiting, len(names), rarer),
        intercept=float(coefficients[0]),
        intercept_se=float(np.sqrt(covariance[0, 0])),
    )


def _null(w: Floats, event: Floats, share: float, x: Floats) -> tuple[float, float]:
    """Log-likelihood with an intercept alone, and the score test of everything else there."""
    value = float(w.sum() * (share * np.log(share) + (1 - share) * np.log1p(-share)))
    gradient = (w * (event - share)) @ x
    information = share * (1 - share) * (x * w[:, None]).T @ x
    return value, float(gradient @ np.linalg.solve(information, gradient))
