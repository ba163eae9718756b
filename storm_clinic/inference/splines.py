"""Restricted cubic splines: the shape of a continuous covariate's effect, and a test of it."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike
from scipy.stats import norm

from storm_clinic.cohort.outcome import Floats
from storm_clinic.errors import StatisticsError
from storm_clinic.inference.fitted import ChiSquared, Fitted

_CLUMP = 0.05  # share of patients at one end above which that end has no outer knot of its own


def knots_of(x: ArrayLike, n_knots: int) -> Floats:
    """Knots at quantiles, as ``rms::rcs`` (Hmisc's ``rcspline.eval``) places them.

    Outer knots lie at the 5th and 95th percentile (10th and 90th with 3 knots), the rest evenly
    between. With fewer than 100 patients the outer ones are the fifth lowest and fifth highest
    value; where at least 5% of the patients share the lowest (highest) value, and no other value is
    shared by as many, the outer knot is the next one.

    Parameters
    ----------
    x : float array, shape (n_patients,)
        The covariate.
    n_knots : int
        3 to 5.

    Raises
    ------
    StatisticsError
        If the values do not give three different knots.

    References
    ----------
    Harrell, Regression Modeling Strategies (2015), section 2.4.
    """
    values = np.sort(np.asarray(x, dtype=np.float64))
    if not 3 <= n_knots <= 5:
        raise StatisticsError(f"{n_knots} knots", fix="Legal are 3 to 5.")
    unique, counts = np.unique(values, return_counts=True)
    if len(unique) - 2 <= n_knots:
        raise StatisticsError(
            f"{len(unique)} different values cannot carry a spline with {n_knots} knots"
        )
    outer = 0.05 if n_knots > 3 else 0.1
    share = counts / len(values)
    first = last = None
    if share[1:-1].max() < _CLUMP:
        if share[0] >= _CLUMP:
            first = unique[1]
            values = values[values > first]
        if share[-1] >= _CLUMP:
            last = values[values < values.max()].max()
            values = values[values < last]
    inner = n_knots - (first is not None) - (last is not None)
    where = [0.5] if inner == 1 else np.linspace(0.5 if inner == 2 else outer, 1 - outer, inner)
    knots = np.quantile(values, where)
    if len(values) < 100 and inner > 1:
        knots[0] = values[4] if first is None else knots[0]
        knots[-1] = values[-5] if last is None else knots[-1]
    ends = ([] if first is None else [first]), ([] if last is None else [last])
    knots = np.unique(np.concatenate([ends[0], knots, ends[1]]))
    if len(knots) < 3:
        raise StatisticsError("too many patients share a value: fewer than 3 different knots")
    return np.asarray(knots)


def restricted_cubic(x: ArrayLike, knots: ArrayLike) -> Floats:
    """Harrell's basis: x itself and ``n_knots - 2`` cubic terms, linear beyond the outer knots.

    Parameters
    ----------
    x : float array, shape (n,)
        The covariate.
    knots : float array, shape (n_knots,)
        Ascending.

    Returns
    -------
    float64 array, shape (n, n_knots - 1)
        Cubic terms divided by the squared distance of the outer knots, as R's.
    """
    v, t = np.asarray(x, dtype=np.float64)[:, None], np.asarray(knots, dtype=np.float64)
    inner, before, last = t[:-2], t[-2], t[-1]

    def cubed(at: Floats) -> Floats:
        return np.asarray(np.maximum(v - at, 0) ** 3)

    terms = (
        cubed(inner)
        + (before - inner) / (last - before) * cubed(np.atleast_1d(last))
        - (last - inner) / (last - before) * cubed(np.atleast_1d(before))
    )
    return np.column_stack([v, terms / (last - t[0]) ** 2])


@dataclass(frozen=True, eq=False)
class SplineEffect:
    """The effect of a covariate over its range against its median.

    Attributes
    ----------
    at : float64 array, shape (n_points,)
    effect, lower, upper : float64 arrays, shape (n_points,)
        Log hazard (or odds) ratio against the median, with a pointwise Wald interval.
    knots : float64 array
    wald, likelihood_ratio : ChiSquared
        Of the cubic terms: whether a line is enough. The likelihood ratio is that of a pseudo-
        likelihood, and no test, in Fine and Gray's model.
    fit : Fitted
        The model with the spline; its first columns are the basis.
    """

    at: Floats
    effect: Floats
    lower: Floats
    upper: Floats
    knots: Floats
    wald: ChiSquared
    likelihood_ratio: ChiSquared
    fit: Fitted


def spline_effect(
    x: ArrayLike,
    fit: Callable[[Floats, Sequence[str]], Fitted],
    *,
    n_knots: int = 4,
    beside: ArrayLike | None = None,
    beside_names: Sequence[str] = (),
    n_points: int = 60,
    level: float = 0.95,
) -> SplineEffect:
    """Fit a restricted cubic spline of one covariate, beside others or alone.

    Parameters
    ----------
    x : float array, shape (n_patients,)
        The covariate.
    fit : callable
        Design and names to a fitted model: ``lambda d, n: fit_cox(d, outcome, names=n)``.
    n_knots : int
        3 to 5.
    beside : float array, shape (n_patients, q), optional
        Other covariates, as they are.
    beside_names : sequence of str, length q
        Theirs.
    n_points : int
        Shown from the 2.5th to the 97.5th percentile.
    level : float
        Of the pointwise Wald interval.

    Raises
    ------
    StatisticsError
        As `knots_of` and the model itself.
    """
    values = np.asarray(x, dtype=np.float64)
    knots = knots_of(values, n_knots)
    # On a common scale, so that squares and cubes of large units lose no digits.
    centre, spread = float(np.median(values)), float(values.std())
    t = (knots - centre) / spread
    basis = restricted_cubic((values - centre) / spread, t)
    others = np.empty((len(values), 0)) if beside is None else np.asarray(beside, dtype=np.float64)
    names = [f"spline {k + 1}" for k in range(basis.shape[1])]
    curved = fit(np.column_stack([basis, others]), [*names, *beside_names])
    straight = fit(np.column_stack([basis[:, :1], others]), [names[0], *beside_names])
    first, last = (float(edge) for edge in np.quantile(values, [0.025, 0.975]))
    at = np.linspace(first, last, n_points)
    row = restricted_cubic((at - centre) / spread, t) - restricted_cubic([0.0], t)
    own = slice(0, basis.shape[1])
    effect = row @ curved.coefficients[own]
    se = np.sqrt(np.maximum(np.sum((row @ curved.covariance[own, own]) * row, axis=1), 0))
    reach = float(norm.ppf(0.5 + level / 2)) * se
    gain = 2 * (curved.log_likelihood - straight.log_likelihood)
    return SplineEffect(
        at=at,
        effect=effect,
        lower=effect - reach,
        upper=effect + reach,
        knots=knots,
        wald=curved.wald_of(range(1, basis.shape[1])),
        likelihood_ratio=ChiSquared(max(gain, 0.0), basis.shape[1] - 1),
        fit=curved,
    )
