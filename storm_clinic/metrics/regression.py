"""One-covariate regressions under many case weights: Cox (Efron ties) and logistic.

What calibration needs, for all resamples at once; models with several covariates belong to heads.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from storm_clinic.cohort.outcome import Floats, Ints, Survival
from storm_clinic.metrics.censoring import GSlope
from storm_clinic.metrics.competing import Lingering
from storm_clinic.metrics.risk_sets import suffix_sums

_MAX_STEPS = 60
_LONGEST_STEP = 2.0
_TOLERANCE = 1e-10
# Beyond this change in log-hazard or log-odds per standard deviation the likelihood has no maximum
# (every death had the highest risk left, or a threshold separates the classes).
_DIVERGED = 15.0
# G(t-) at each death time and 1/G(T-) of each competing event, by its time: their product is the
# weight that a patient keeps.
_Kept = tuple[Floats, Floats]


class CoxSlope:
    """Cox regression of an outcome on one covariate, Efron's ties with case weights as R's coxph.

    A patient of weight 0 is absent, also from ties.

    Parameters
    ----------
    outcome : Survival
        Entry times are honoured.
    covariate : float64 array, shape (n_patients,)
    lingering : Lingering, optional
        Patients who stay at risk after a competing event, less and less (Fine and Gray's model); in
        ``outcome`` they are censored at it.
    """

    def __init__(
        self, outcome: Survival, covariate: Floats, lingering: Lingering | None = None
    ) -> None:
        self._sd = float(covariate.std())
        self._order = np.argsort(outcome.time_months, kind="stable")
        self._x = (covariate[self._order] - covariate.mean()) / (self._sd or 1.0)
        time, event = outcome.time_months[self._order], outcome.event[self._order]
        self._deaths: Ints = np.flatnonzero(event)
        at, tie = np.unique(time[self._deaths], return_inverse=True)
        self._tie: Ints = tie.astype(np.int64)
        self._tie_start = np.searchsorted(self._tie, np.arange(len(at)))
        self._from = np.searchsorted(time, at, side="left")
        self._entry_order: Ints | None = None
        if outcome.entry_months is not None and (outcome.entry_months > 0).any():
            entry = outcome.entry_months[self._order]
            self._entry_order = np.argsort(entry, kind="stable")
            self._late_from = np.searchsorted(entry[self._entry_order], at, side="left")
        self._lingering, self._at = lingering, at
        if lingering is not None:
            place = np.empty(len(time), dtype=np.int64)
            place[self._order] = np.arange(len(time))
            self._gone: Ints = place[lingering.at]
            self._gone_before = np.searchsorted(lingering.time, at, side="left")

    def fit(self, weights: Floats, start: float = 0.0) -> Floats:
        """Slope per unit of the covariate, (n_resamples,); NaN where it does not exist."""
        w = weights[:, self._order]
        if self._sd == 0 or not len(self._deaths):
            return np.full(len(w), np.nan)
        counted, share = self._ties(w)
        own = w[:, self._deaths] @ self._x[self._deaths]
        kept = self._kept(weights)

        def step(beta: Floats) -> Floats:
            _, mean, variance = self._moments(w, share, beta, kept)
            score = own - np.einsum("bd,bd->b", counted, mean)
            with np.errstate(invalid="ignore", divide="ignore"):
                return np.asarray(score / np.einsum("bd,bd->b", counted, variance))

        return _newton(step, np.full(len(w), start * self._sd)) / self._sd

    def influence(self, slope: float) -> Floats:
        """How far each patient moves the slope (R's ``dfbeta``), with every case weight 1.

        In Fine and Gray's model, G being estimated is part of it.
        """
        n = len(self._x)
        w, beta = np.ones((1, n)), np.array([slope * self._sd])
        share, kept = self._ties(w)[1], self._kept(w)
        s0, mean, variance = (moment[0] for moment in self._moments(w, share, beta, kept))
        hazard = _relative_hazard(beta, self._x)[0]
        rate, rate_mean = (self._per_time(v) for v in (1 / s0, mean / s0))
        residual = -hazard * (self._x * self._exposure(rate) - self._exposure(rate_mean))
        # Efron: those who die at a tie are at risk there only in part.
        part, part_mean = (self._per_time(share[0] * v)[self._tie] for v in (1 / s0, mean / s0))
        dead, x_dead = self._deaths, self._x[self._deaths]
        tie_mean = (self._per_time(mean) / self._per_time(np.ones(len(dead))))[self._tie]
        residual[dead] += x_dead - tie_mean + hazard[dead] * (x_dead * part - part_mean)
        influence = np.empty(n)
        influence[self._order] = residual
        if kept is not None:
            influence += self._after_competing(kept, hazard, rate, rate_mean)
        return np.asarray(influence / variance.sum() / self._sd)

    def _after_competing(
        self, kept: _Kept, hazard: Floats, rate: Floats, rate_mean: Floats
    ) -> Floats:
        """What patients add to the score after their competing event, and through G."""
        assert self._lingering is not None
        followed, weight = kept[0][0], hazard[self._gone] * kept[1][0]
        x = self._x[self._gone]
        until = np.searchsorted(self._at, self._lingering.time, side="right")
        exposure, exposure_mean = (
            total[-1] - total[until]
            for total in (np.append(0.0, np.cumsum(followed * v)) for v in (rate, rate_mean))
        )
        own = -weight * (x * exposure - exposure_mean)
        gone, gone_x = (
            np.append(0.0, np.cumsum(v))[self._gone_before] for v in (weight, weight * x)
        )
        by_time = -followed * (rate * gone_x - rate_mean * gone)
        months = np.concatenate([self._lingering.time, self._at])
        score = self._lingering.influence(GSlope(months, np.concatenate([-own, by_time])))
        score[self._lingering.at] += own
        return score

    def _ties(self, w: Floats) -> tuple[Floats, Floats]:
        """Per death, (n_resamples, n_deaths): the mean weight of its tie, and Efron's share."""
        weight = w[:, self._deaths]
        present = weight > 0
        number = np.add.reduceat(present, self._tie_start, axis=1, dtype=np.float64)
        mean = np.add.reduceat(weight, self._tie_start, axis=1) / np.maximum(number, 1)
        before: Floats = np.cumsum(present, axis=1, dtype=np.float64) - present
        rank: Floats = before - before[:, self._tie_start][:, self._tie]
        return mean[:, self._tie] * present, rank / np.maximum(number, 1)[:, self._tie]

    def _kept(self, weights: Floats) -> _Kept | None:
        if self._lingering is None:
            return None
        return self._lingering.followed(weights, self._at), self._lingering.inverse(weights)

    def _moments(
        self, w: Floats, share: Floats, beta: Floats, kept: _Kept | None = None
    ) -> tuple[Floats, Floats, Floats]:
        """Per death: total hazard of its risk set, and mean and variance of x under it."""
        hazard = w * _relative_hazard(beta, self._x)
        s0, s1, s2 = (self._risk_sum(hazard * self._x**power, share, kept) for power in range(3))
        # A risk set without weight belongs to a death without weight, which is not counted.
        s0 = np.where(s0 > 0, s0, np.inf)
        mean = s1 / s0
        return s0, mean, np.maximum(s2 / s0 - mean**2, 0)

    def _risk_sum(self, values: Floats, share: Floats, kept: _Kept | None) -> Floats:
        """Sum over the risk set of each death, less Efron's share of those who die with it."""
        total = suffix_sums(values)[:, self._from]
        if self._entry_order is not None:
            total = total - suffix_sums(values[:, self._entry_order])[:, self._late_from]
        if kept is not None:
            followed, inverse = kept
            gone = np.cumsum(values[:, self._gone] * inverse, axis=1)
            gone = np.concatenate([np.zeros((len(gone), 1)), gone], axis=1)
            total = total + followed * gone[:, self._gone_before]
        dying = np.add.reduceat(values[:, self._deaths], self._tie_start, axis=1)
        return np.asarray(total[:, self._tie] - share * dying[:, self._tie])

    def _per_time(self, per_death: Floats) -> Floats:
        """Sum of a value per death over the deaths at each time."""
        return np.add.reduceat(per_death, self._tie_start)

    def _exposure(self, per_time: Floats) -> Floats:
        """Sum of a value per death time over the times at which each patient is at risk."""
        total = np.append(0.0, np.cumsum(per_time))
        n = len(self._x)
        exposure = total[np.searchsorted(self._from, np.arange(n), side="right")]
        if self._entry_order is not None:
            position = np.empty(n, dtype=np.int64)
            position[self._entry_order] = np.arange(n)
            exposure = exposure - total[np.searchsorted(self._late_from, position, side="right")]
        return np.asarray(exposure)


class LogisticLine:
    """Logistic regression of a 0/1 event on one covariate, or on that covariate as an offset."""

    def __init__(self, event: Floats, covariate: Floats) -> None:
        self._event, self._offset = event, covariate
        self._sd = float(covariate.std())
        self._x = (covariate - covariate.mean()) / (self._sd or 1.0)

    def slope(self, weights: Floats) -> Floats:
        """Slope per unit of the covariate, with a free intercept; NaN where it does not exist."""
        if self._sd == 0:
            return np.full(len(weights), np.nan)
        return np.asarray(self._line(weights)[:, 1] / self._sd)

    def slope_influence(self) -> Floats:
        """How far each patient moves the slope (sandwich, HC0), with every case weight 1."""
        a, b = self._line(np.ones((1, len(self._x))))[0]
        p = _expit(a + b * self._x)
        v = p * (1 - p)
        i0, i1, i2 = v.sum(), v @ self._x, v @ self._x**2
        scaled = (i0 * self._x - i1) / (i0 * i2 - i1**2) / self._sd
        return np.asarray((self._event - p) * scaled)

    def in_the_large(self, weights: Floats) -> Floats:
        """Intercept with the covariate as offset (slope 1); NaN where it does not exist."""

        def step(alpha: Floats) -> Floats:
            p = _expit(alpha[:, None] + self._offset)
            score = np.einsum("bn,bn->b", weights, self._event - p)
            with np.errstate(invalid="ignore", divide="ignore"):
                return np.asarray(score / np.einsum("bn,bn->b", weights, p * (1 - p)))

        return _newton(step, np.zeros(len(weights)))

    def in_the_large_influence(self, intercept: float) -> Floats:
        """How far each patient moves that intercept, with every case weight 1."""
        p = _expit(intercept + self._offset)
        return np.asarray((self._event - p) / (p * (1 - p)).sum())

    def _line(self, weights: Floats) -> Floats:
        def step(line: Floats) -> Floats:
            p = _expit(line[:, :1] + line[:, 1:] * self._x)
            residual, v = weights * (self._event - p), weights * p * (1 - p)
            u0, u1 = residual.sum(axis=1), residual @ self._x
            i0, i1, i2 = v.sum(axis=1), v @ self._x, v @ self._x**2
            with np.errstate(invalid="ignore", divide="ignore"):
                both = np.stack([i2 * u0 - i1 * u1, i0 * u1 - i1 * u0], axis=1)
                return np.asarray(both / (i0 * i2 - i1**2)[:, None])

        return _newton(step, np.zeros((len(weights), 2)))


class IncidenceShift:
    """By how much log(-log(1 - p)) must move so that the mean prediction is a given share."""

    def __init__(self, predictor: Floats) -> None:
        self._predictor = predictor

    def fit(self, weights: Floats, share: Floats) -> Floats:
        """The shift, (n_resamples,), from the shares, (n_resamples,); NaN for a share of 0 or 1."""
        total = weights.sum(axis=1)

        def step(shift: Floats) -> Floats:
            risk, slope = self._moved(shift[:, None])
            with np.errstate(invalid="ignore", divide="ignore"):
                missing = share * total - np.einsum("bn,bn->b", weights, risk)
                return np.asarray(missing / np.einsum("bn,bn->b", weights, slope))

        inside = (share > 0) & (share < 1)
        return np.where(inside, _newton(step, np.zeros(len(weights))), np.nan)

    def influence(self, shift: float, share_influence: Floats) -> Floats:
        """How far each patient moves the shift, given how far they move the share."""
        risk, slope = self._moved(np.array(shift))
        return np.asarray((share_influence - (risk - risk.mean()) / len(risk)) / slope.mean())

    def _moved(self, shift: Floats) -> tuple[Floats, Floats]:
        """Predictions after a shift, and their derivatives by it."""
        # Beyond these bounds a prediction is 0 or 1 in double precision.
        hazard = np.exp(np.clip(self._predictor + shift, -700.0, 700.0))
        free = np.exp(-hazard)
        return -np.expm1(-hazard), hazard * free


def _newton(step: Callable[[Floats], Floats], start: Floats) -> Floats:
    """Follow Newton steps, each bounded, to a fixed point; NaN where there is none."""
    at = start
    move = np.full_like(at, np.inf)
    for _ in range(_MAX_STEPS):
        move = step(at)
        at = at + np.clip(move, -_LONGEST_STEP, _LONGEST_STEP)
        if not (np.abs(move) >= _TOLERANCE).any():  # NaN has no way back
            break
    found = (np.abs(move) < _TOLERANCE) & (np.abs(at) < _DIVERGED)
    everywhere = found if at.ndim == 1 else np.all(found, axis=1, keepdims=True)
    return np.where(everywhere, at, np.nan)


def _relative_hazard(beta: Floats, x: Floats) -> Floats:
    """exp(beta x), (n_resamples, n_patients), divided by its largest value, which cancels."""
    eta = beta[:, None] * x
    return np.asarray(np.exp(eta - eta.max(axis=1, keepdims=True)))


def _expit(x: Floats) -> Floats:
    return np.asarray(0.5 * (1 + np.tanh(x / 2)), dtype=np.float64)
