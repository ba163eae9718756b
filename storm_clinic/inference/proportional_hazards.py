"""Whether hazard ratios stay constant, and how they move with time if not."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import ArrayLike
from scipy.stats import norm

from storm_clinic.cohort.outcome import Floats, Ints, Survival
from storm_clinic.errors import StatisticsError
from storm_clinic.inference.cox import as_weights, partial_likelihood
from storm_clinic.inference.fitted import ChiSquared, Fitted
from storm_clinic.inference.splines import restricted_cubic
from storm_clinic.metrics.resampling import label_codes
from storm_clinic.metrics.risk_sets import RiskSets, with_start

Transform = Literal["km", "identity", "log"]


@dataclass(frozen=True, eq=False)
class ProportionalHazards:
    """Score tests of a trend of each effect with time, and the residuals that show it.

    Attributes
    ----------
    terms : dict of str to ChiSquared
    overall : ChiSquared
        Of all coefficients at once (R's GLOBAL).
    transform : str
        Scale of time on which the trend is a line.
    months : float64 array, shape (n_events,)
        Event times, ascending inside strata.
    scale : float64 array, shape (n_events,)
        The same on the scale of ``transform``.
    residuals : float64 array, shape (n_events, p)
        Scaled Schoenfeld residuals plus the coefficient: each a rough estimate of the log hazard
        ratio at that time.
    coefficients : float64 array, shape (p,)
    variance : float64 array, shape (p,)
        Of one such residual.
    names : tuple of str
    """

    terms: Mapping[str, ChiSquared]
    overall: ChiSquared
    transform: Transform
    months: Floats
    scale: Floats
    residuals: Floats
    coefficients: Floats
    variance: Floats
    names: tuple[str, ...]


def proportional_hazards(
    fit: Fitted,
    design: ArrayLike,
    outcome: Survival,
    *,
    terms: Mapping[str, Sequence[int]] | None = None,
    transform: Transform = "km",
    weights: ArrayLike | None = None,
    strata: ArrayLike | None = None,
) -> ProportionalHazards:
    """Score test of proportional hazards, as ``survival::cox.zph`` from version 3.

    Adds covariate x g(time) to the model and tests its coefficients at 0, without the assumption
    of earlier versions that the covariates' variance is the same in all risk sets.

    Parameters
    ----------
    fit : Fitted
        The Cox model, fitted to exactly this design, outcome, weights and strata.
    design : float array, shape (n_patients, p)
        The covariates.
    outcome : Survival, length n_patients
        Entry times are honoured.
    terms : mapping of str to positions of columns, optional
        Columns tested together (a categorical covariate); each column alone by default.
    transform : {"km", "identity", "log"}
        Scale of time: one less Kaplan-Meier just before (unweighted, over all strata), months, or
        log months.
    weights, strata : arrays, shape (n_patients,), optional
        As in `fit_cox`.

    Raises
    ------
    StatisticsError
        If all events happen at one time, or too few for the test.

    References
    ----------
    Grambsch & Therneau, Biometrika 81 (1994) 515-526. Therneau & Grambsch, Modeling Survival Data
    (2000), ch. 6.
    """
    w = as_weights(weights, outcome.n_patients)
    here = np.flatnonzero(w > 0)
    kept, x = outcome.take(here), np.asarray(design, dtype=np.float64)[here]
    codes = None if strata is None else label_codes(strata, outcome.n_patients, "strata")[here]
    g = _scale(kept, transform)
    columns = terms or {name: [at] for at, name in enumerate(fit.names)}
    centre, spread = x.mean(axis=0), x.std(axis=0)
    parts = _derivatives(kept, (x - centre) / spread, w[here], codes, fit.coefficients * spread, g)
    p = len(fit.names)
    every = list(range(p))
    tests = {name: _score_test(parts, p, list(at)) for name, at in columns.items()}
    order, residuals = parts.deaths, parts.residuals
    # Residuals were on standardised columns.
    covariance = np.linalg.inv(parts.information[:p, :p]) / np.outer(spread, spread)
    scaled = len(order) * (residuals * spread) @ covariance + fit.coefficients
    return ProportionalHazards(
        terms=tests,
        overall=_score_test(parts, p, every),
        transform=transform,
        months=kept.time_months[order],
        scale=g[order],
        residuals=scaled,
        coefficients=fit.coefficients,
        variance=len(order) * np.diag(covariance),
        names=fit.names,
    )


@dataclass(frozen=True, eq=False)
class TimeVarying:
    """A log hazard ratio over time, with a pointwise interval."""

    months: Floats
    log_hazard_ratio: Floats
    lower: Floats
    upper: Floats


def time_varying(
    found: ProportionalHazards, column: int, *, n_points: int = 40, level: float = 0.95
) -> TimeVarying:
    """Smooth the scaled residuals of one coefficient over time, as ``plot.cox.zph`` (df = 4).

    Parameters
    ----------
    found : ProportionalHazards
        The tests and residuals.
    column : int
        Position of the coefficient.
    n_points : int
        Evenly spaced on the scale of time of the test.
    level : float
        Of the pointwise Wald interval.

    Raises
    ------
    StatisticsError
        If events happened at fewer than five times.
    """
    at, y = found.scale, found.residuals[:, column]
    if len(np.unique(at)) < 5:
        raise StatisticsError(
            f"events at {len(np.unique(at))} times; a smooth effect over time needs at least 5"
        )
    points = np.linspace(at.min(), at.max(), n_points)
    # The natural spline of R's ns(c(points, times), df = 4, intercept = TRUE).
    knots = np.quantile(np.concatenate([points, at]), [0, 1 / 3, 2 / 3, 1])
    if len(np.unique(knots)) < 4:
        raise StatisticsError("too many events happen at one time to smooth an effect over time")
    basis = np.column_stack([np.ones(len(at)), restricted_cubic(at, knots)])
    shown = np.column_stack([np.ones(n_points), restricted_cubic(points, knots)])
    if np.linalg.matrix_rank(basis) < basis.shape[1]:
        raise StatisticsError("events happen at too few times to smooth an effect over time")
    q, r = np.linalg.qr(basis)
    through = np.linalg.solve(r.T, shown.T).T
    value = through @ (q.T @ y)
    reach = float(norm.ppf(0.5 + level / 2)) * np.sqrt(
        found.variance[column] * np.sum(through**2, axis=1)
    )
    times, first = np.unique(found.months, return_index=True)
    months = np.interp(points, at[first], times)
    return TimeVarying(months, value, value - reach, value + reach)


@dataclass(frozen=True, eq=False)
class _Parts:
    score: Floats  # (p,), of the covariates x g(time)
    information: Floats  # (2p, 2p), of the covariates and of covariates x g(time)
    deaths: Ints  # positions of patients with an event, by stratum and time
    residuals: Floats  # Schoenfeld, (n_events, p)


def _scale(outcome: Survival, transform: Transform) -> Floats:
    if transform == "identity":
        return outcome.time_months
    if transform == "log":
        return np.asarray(np.log(outcome.time_months))
    sets = RiskSets(outcome)
    curve = with_start(sets.event_free(np.ones((1, outcome.n_patients))))[0]
    return np.asarray(1 - curve[sets.before(outcome.time_months)])


def _derivatives(
    outcome: Survival, x: Floats, w: Floats, codes: Ints | None, b: Floats, g: Floats
) -> _Parts:
    centred = g - g[outcome.event].mean()
    if np.ptp(centred[outcome.event]) == 0:
        raise StatisticsError("all events happen at one time: effects cannot be seen to move")
    centred = centred / centred[outcome.event].std()  # cancels in every test
    likelihood = partial_likelihood(outcome, w, codes)
    p = x.shape[1]
    score, information = np.zeros(p), np.zeros((2 * p, 2 * p))
    deaths, residuals = [], []
    for stratum, rows in zip(likelihood.strata, likelihood.rows, strict=True):
        if not len(stratum.deaths):
            continue
        own = x[rows]
        at = stratum.at_deaths(own, own @ b)
        by = centred[rows][stratum.deaths][stratum.tie_start]
        score += stratum.score(own, at, by)
        plain, once, twice = (stratum.information(own, at, by**k) for k in range(3))
        information += np.block([[plain, once], [once, twice]])
        deaths.append(rows[stratum.deaths])
        residuals.append(stratum.schoenfeld(own, at))
    return _Parts(score, information, np.concatenate(deaths), np.concatenate(residuals))


def _score_test(parts: _Parts, p: int, columns: list[int]) -> ChiSquared:
    """Of the terms x g(time) in these columns, with the covariates themselves in the model."""
    at = [*range(p), *(p + column for column in columns)]
    score = np.concatenate([np.zeros(p), parts.score[columns]])
    information = parts.information[np.ix_(at, at)]
    if np.linalg.cond(information) > 1e12:
        raise StatisticsError("too few event times to test proportional hazards of all covariates")
    return ChiSquared(float(score @ np.linalg.solve(information, score)), len(columns))
