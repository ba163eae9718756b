"""The two draws of chained equations, for all chains at once: matched numbers, and categories.

Shapes are (n_chains, n_patients, n_numbers); covariates come standardised over the patients.
"""

from __future__ import annotations

import numpy as np

from storm_clinic.cohort.outcome import Bools, Floats, Ints
from storm_clinic.errors import StatisticsError

_RIDGE = 1e-5  # of a slope's own information: dependent covariates share a coefficient
_MAX_STEPS = 50
_TOLERANCE = 1e-6


def draw_matched(
    values: Floats, x: Floats, known: Bools, n_donors: int, rng: np.random.Generator
) -> Floats:
    """Predictive mean matching, type 1, as R's ``mice.impute.pmm``.

    Parameters
    ----------
    values : float64 array, shape (n_known,)
        Of the known patients, in order.
    x : float64 array, shape (n_chains, n_patients, n_numbers)
        What predicts them.
    known : bool array, shape (n_patients,)
        Whose values are known.
    n_donors : int
        Nearest known patients among whom one is drawn.
    rng : Generator
        Source of all draws.

    Returns
    -------
    float64 array, shape (n_chains, n_missing)
    """
    design = _with_intercept(x)
    seen = design[:, known]
    information = np.swapaxes(seen, 1, 2) @ seen
    information += _ridge(information)
    best = np.linalg.solve(information, np.swapaxes(seen, 1, 2) @ values[None, :, None])
    residual = values[None, :, None] - seen @ best
    df = max(len(values) - design.shape[2], 1)
    variance = np.sum(residual**2, axis=(1, 2)) / rng.chisquare(df, len(x))
    drawn = best + np.sqrt(variance)[:, None, None] * _normal(information, rng)
    expected, wanted = (seen @ best)[:, :, 0], (design[:, ~known] @ drawn)[:, :, 0]
    return np.stack(
        [values[_matched(e, w, n_donors, rng)] for e, w in zip(expected, wanted, strict=True)]
    )


def _matched(expected: Floats, wanted: Floats, n_donors: int, rng: np.random.Generator) -> Ints:
    """For each wanted prediction, one of the known patients with the nearest predictions."""
    # Equal predictions stand in random order, so that no patient is the donor by his place.
    order = np.lexsort((rng.random(len(expected)), expected))
    ranked = expected[order]
    k = min(n_donors, len(ranked))
    at = np.searchsorted(ranked, wanted)
    window = at[:, None] + np.arange(-k, k)
    distance = np.abs(ranked[np.clip(window, 0, len(ranked) - 1)] - wanted[:, None])
    distance[(window < 0) | (window >= len(ranked))] = np.inf
    nearest = np.argsort(distance, axis=1, kind="stable")[:, :k]
    chosen = nearest[np.arange(len(wanted)), rng.integers(0, k, len(wanted))]
    return np.asarray(order[window[np.arange(len(wanted)), chosen]], dtype=np.int64)


def draw_category(
    codes: Ints, n_levels: int, x: Floats, known: Bools, rng: np.random.Generator
) -> Floats:
    """Levels drawn from a multinomial logistic regression with drawn coefficients.

    Two levels are R's ``mice.impute.logreg``; of more, ``mice.impute.polyreg`` uses the same model
    without drawing its coefficients. Pseudo-patients of weight (n_numbers + 1) in all, as there,
    keep coefficients finite where a covariate separates the levels.

    Parameters
    ----------
    codes : int64 array, shape (n_known,)
        Positions of levels.
    n_levels : int
        At least 1.
    x, known, rng
        As `draw_matched`.

    Returns
    -------
    float64 array, shape (n_chains, n_missing)
        Positions of levels.
    """
    n_missing = int((~known).sum())
    if n_levels == 1:
        return np.zeros((len(x), n_missing))
    design, target, weight = _augmented(codes, n_levels, x, known)
    coefficients, information = _multinomial(design, target, weight)
    drawn = coefficients + _normal(information, rng)[:, :, 0].reshape(coefficients.shape)
    share = _probabilities(_with_intercept(x[:, ~known]), drawn)
    below = np.cumsum(share, axis=2)[:, :, :-1]
    return np.asarray((rng.random((len(x), n_missing, 1)) > below).sum(axis=2), dtype=np.float64)


def _augmented(
    codes: Ints, n_levels: int, x: Floats, known: Bools
) -> tuple[Floats, Floats, Floats]:
    """Design, 0/1 of the levels but the first, and weights, with the pseudo-patients at the end.

    For each number and level two, half a standard deviation on either side of the mean.
    """
    n_chains, _, p = x.shape
    steps = np.repeat(np.eye(p), 2, axis=0) * np.tile([0.5, -0.5], p)[:, None]
    pseudo = np.broadcast_to(np.tile(steps, (n_levels, 1)), (n_chains, 2 * p * n_levels, p))
    pseudo = np.clip(pseudo, x.min(axis=1, keepdims=True), x.max(axis=1, keepdims=True))
    design = _with_intercept(np.concatenate([x[:, known], pseudo], axis=1))
    labels = np.append(codes, np.repeat(np.arange(n_levels), 2 * p))
    target = (labels[:, None] == np.arange(1, n_levels)).astype(np.float64)
    n_pseudo = max(2 * p * n_levels, 1)
    weight = np.append(np.ones(len(codes)), np.full(2 * p * n_levels, (p + 1) / n_pseudo))
    return design, target, weight


def _multinomial(design: Floats, target: Floats, weight: Floats) -> tuple[Floats, Floats]:
    """Maximum likelihood by Newton's method: coefficients (c, levels - 1, p), information."""
    n_chains, _, p = design.shape
    k = target.shape[1]
    coefficients = np.zeros((n_chains, k, p))
    for _ in range(_MAX_STEPS):
        share = _probabilities(design, coefficients)[:, :, 1:]
        score = np.swapaxes(weight[:, None] * (target - share), 1, 2) @ design
        information = _information(design, share, weight)
        information += _ridge(information)
        step = np.linalg.solve(information, score.reshape(n_chains, k * p, 1))
        # Far from the maximum a whole step can overshoot.
        step /= np.maximum(1.0, np.abs(step).max(axis=1, keepdims=True) / 3)
        coefficients = coefficients + step[:, :, 0].reshape(coefficients.shape)
        if np.abs(step).max() < _TOLERANCE:
            return coefficients, information
    raise StatisticsError(
        "the regression that imputes a category does not settle",
        fix="Join rare levels, or impute with fewer covariates.",
    )


def _information(design: Floats, share: Floats, weight: Floats) -> Floats:
    """Information of the coefficients, (n_chains, k p, k p)."""
    n_chains, _, p = design.shape
    k = share.shape[2]
    information = np.empty((n_chains, k, p, k, p))
    for a in range(k):
        for b in range(a, k):
            v = weight * share[:, :, a] * (float(a == b) - share[:, :, b])
            block = np.swapaxes(design, 1, 2) @ (v[:, :, None] * design)
            information[:, a, :, b], information[:, b, :, a] = block, block
    return information.reshape(n_chains, k * p, k * p)


def _probabilities(design: Floats, coefficients: Floats) -> Floats:
    """Of each level, (n_chains, n_patients, n_levels)."""
    eta = design @ np.swapaxes(coefficients, 1, 2)
    eta = np.concatenate([np.zeros((*eta.shape[:2], 1)), eta], axis=2)
    raised = np.exp(eta - eta.max(axis=2, keepdims=True))
    return np.asarray(raised / raised.sum(axis=2, keepdims=True))


def _normal(information: Floats, rng: np.random.Generator) -> Floats:
    """Draws with the inverse of the information as covariance, (n_chains, n, 1)."""
    root = np.linalg.cholesky(information)
    z = rng.standard_normal((*information.shape[:2], 1))
    return np.asarray(np.linalg.solve(np.swapaxes(root, 1, 2), z), dtype=np.float64)


def _ridge(information: Floats) -> Floats:
    diagonal = np.diagonal(information, axis1=1, axis2=2)
    return _RIDGE * diagonal[:, :, None] * np.eye(information.shape[1])


def _with_intercept(x: Floats) -> Floats:
    return np.concatenate([np.ones((*x.shape[:2], 1)), x], axis=2)
