"""Do groups of patients differ, and along an order? Trend, Gray's test, pairs of groups."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from itertools import combinations

import numpy as np
from numpy.typing import ArrayLike
from scipy.stats import chi2

from storm_clinic.cohort.outcome import CompetingRisks, Floats, Ints, Outcome, Survival
from storm_clinic.errors import StatisticsError
from storm_clinic.metrics.compare import (
    LogRank,
    log_rank_tables,
    patients_by_stratum,
    quadratic_form,
)
from storm_clinic.metrics.inputs import all_causes, require_whole_follow_up
from storm_clinic.metrics.risk_sets import RiskSets


@dataclass(frozen=True)
class GroupTest:
    """One test: its chi-squared statistic, degrees of freedom and p."""

    chi2: float
    df: int
    p: float
    n_patients: int
    n_events: int
    method: str


@dataclass(frozen=True)
class PairTest:
    """Two groups compared; ``p_adjusted`` is Holm's over all pairs, equal to p for a single pair.

    ``p`` is None, with the reason in ``note``, where the two do not give the test.
    """

    first: str
    second: str
    p: float | None
    p_adjusted: float | None
    note: str = ""


def log_rank_trend(
    outcome: Survival, scores: ArrayLike, *, strata: ArrayLike | None = None
) -> GroupTest:
    """Log-rank test for trend over ordered groups, one degree of freedom.

    The square of the sum of score times (observed less expected), over its hypergeometric variance.
    It equals the score test of a Cox model with the score as its only variable and the exact
    treatment of ties, ``summary(coxph(y ~ score, ties = "exact"))$sctest``; Breslow's ties give
    another variance where events tie.

    Parameters
    ----------
    outcome : Survival, length n_patients
        Entry times are honoured.
    scores : float array, shape (n_patients,)
        Each patient's group as a number, e.g. 0, 1, 2; any linear change leaves the test as it is.
    strata : array, shape (n_patients,), optional
        Compare patients of one stratum only.

    Raises
    ------
    StatisticsError
        If there is no event, or nobody at risk at an event has another score.

    References
    ----------
    Tarone, Biometrika 62 (1975) 679-682. Tarone & Ware, Biometrika 64 (1977) 156-160.
    """
    values = np.asarray(scores, dtype=np.float64)
    if values.shape != (outcome.n_patients,) or not np.isfinite(values).all():
        raise StatisticsError("scores must be finite, and one a patient")
    if not outcome.n_events:
        raise StatisticsError(f"no event among {outcome.n_patients} patients")
    levels, codes = np.unique(values, return_inverse=True)
    observed, expected, covariance = log_rank_tables(outcome, codes, len(levels), strata)
    # Around their mean, lest large scores cancel.
    centred = levels - levels.mean()
    variance = float(centred @ covariance @ centred)
    if not variance > 1e-12 * float(centred @ centred):
        raise StatisticsError("no two patients at risk at an event differ in their group")
    value = float(centred @ (observed - expected)) ** 2 / variance
    return GroupTest(
        value,
        1,
        float(chi2.sf(value, 1)),
        outcome.n_patients,
        outcome.n_events,
        f"log-rank test for trend (Tarone){'' if strata is None else ', stratified'}",
    )


def gray(
    outcome: CompetingRisks,
    groups: ArrayLike,
    *,
    cause: int = 1,
    strata: ArrayLike | None = None,
) -> GroupTest:
    """Gray's test of equal cumulative incidence of one cause, as ``cmprsk::cuminc`` (rho = 0).

    Parameters
    ----------
    outcome : CompetingRisks, length n_patients
        Without entry times.
    groups : array, shape (n_patients,)
        Label of each patient's group.
    cause : int
        Whose incidence; 1 is the cause of interest.
    strata : array, shape (n_patients,), optional
        Compare patients of one stratum only.

    Raises
    ------
    StatisticsError
        If there is one group only, no event of the cause, or there are entry times.

    References
    ----------
    Gray, Ann. Stat. 16 (1988) 1141-1154.
    """
    require_whole_follow_up(outcome, "Gray's test")
    labels, codes = np.unique(np.asarray(groups), return_inverse=True)
    if codes.shape != (outcome.n_patients,):
        raise StatisticsError(f"{codes.shape} groups for {outcome.n_patients} patients")
    if len(labels) < 2:
        raise StatisticsError("one group of patients", fix="A test needs at least two.")
    n_events = int((outcome.cause == cause).sum())
    if not n_events:
        raise StatisticsError(
            f"no event of {outcome.causes[cause - 1]!r} among {outcome.n_patients} patients"
        )
    score, exposed = np.zeros(len(labels)), np.zeros(len(labels))
    variance = np.zeros((len(labels), len(labels)))
    for patients in patients_by_stratum(strata, outcome.n_patients):
        part = _Subdistribution(outcome.take(patients), codes[patients], len(labels), cause)
        score, exposed = score + part.score, exposed + part.expected
        variance += part.variance()
    value, df = quadratic_form(score, exposed, variance)
    return GroupTest(
        value,
        df,
        float(chi2.sf(value, df)),
        outcome.n_patients,
        n_events,
        f"Gray's test for {outcome.causes[cause - 1]}{'' if strata is None else ', stratified'}",
    )


class _Subdistribution:
    """Gray's score and its variance among the patients of one stratum.

    All arrays are (n_times, n_groups); ``before`` means just before a time.
    """

    def __init__(self, outcome: CompetingRisks, codes: Ints, n_groups: int, cause: int) -> None:
        member = (codes == np.arange(n_groups)[:, None]).astype(np.float64)
        own, _, at_risk = RiskSets(outcome.cause_specific(cause)).counts(member)
        ended, _, _ = RiskSets(all_causes(outcome)).counts(member)
        self._at_risk, self._other = at_risk.T, (ended - own).T
        self._free: Floats = np.asarray(RiskSets(all_causes(outcome)).event_free(member).T)
        self._before = np.vstack([np.ones(n_groups), self._free[:-1]])
        steps = self._before * _ratio(own, at_risk).T
        incidence_before = np.cumsum(steps, axis=0) - steps
        # Those at risk, and those who would be but for a competing event.
        self._reached = _ratio(self._at_risk, self._before)
        self._events = own.sum(axis=0)
        self._total = self._reached.sum(axis=1)
        pooled_step = _ratio(self._events, self._total)
        self._pooled: Floats = np.asarray(np.cumsum(pooled_step), dtype=np.float64)
        self._hazard = _ratio(pooled_step, 1 - (self._pooled - pooled_step))
        subdistribution = self._reached * (1 - incidence_before)
        share = _ratio(subdistribution, subdistribution.sum(axis=1)[:, None])
        self.expected: Floats = (share * self._events[:, None]).sum(axis=0)
        self.score: Floats = own.sum(axis=1) - self.expected

    def variance(self) -> Floats:
        """Covariance of the score, (n_groups, n_groups), under one pooled incidence.

        The score is a sum of integrals over each group's martingales of the cause and of its
        competitors. An event moves the score at once (``now``) and through the group's share in
        all that follows (``later``).
        """
        h = self._reached
        now = h[:, :, None] * np.eye(h.shape[1]) - _ratio(
            h[:, :, None] * h[:, None, :], self._total[:, None, None]
        )
        summed = np.cumsum(now * self._hazard[:, None, None], axis=0)
        later = summed[-1] - summed
        left = (1 - self._pooled)[:, None] * _ratio(np.ones_like(self._free), self._free)
        through = np.where(self._free > 0, 1 - left, 1.0)
        # Ties leave less to chance, as in the hypergeometric variance of the log-rank test.
        tied = self._events[:, None] > 1
        others = self._total[:, None] * self._before - 1
        freedom = 1 - np.where(tied, _ratio(self._events[:, None] - 1, others), 0.0)
        weight = freedom * _ratio(
            self._before * self._events[:, None], self._total[:, None] * self._at_risk
        )
        by_cause = now + through[:, None, :] * later
        freedom = 1 - np.where(self._other > 1, _ratio(self._other - 1, self._at_risk - 1), 0.0)
        competing = freedom * self._other * _ratio(self._before, self._at_risk) ** 2
        by_others = left[:, None, :] * later
        return np.asarray(
            np.einsum("tik,tjk,tk->ij", by_cause, by_cause, weight)
            + np.einsum("tik,tjk,tk->ij", by_others, by_others, competing)
        )


def pairwise(
    outcome: Outcome,
    codes: Ints,
    labels: tuple[str, ...],
    test: Callable[..., GroupTest | LogRank],
) -> tuple[PairTest, ...]:
    """``test`` of every two groups, Holm-adjusted over the pairs.

    Parameters
    ----------
    outcome : Survival or CompetingRisks, length n_patients
        As ``test`` takes it.
    codes : int64 array, shape (n_patients,)
        Position of each patient's group in ``labels``; groups without patients are left out.
    labels : tuple of str
        Names of the groups.
    test : callable
        `log_rank`, or `gray`.

    References
    ----------
    Holm, Scand. J. Stat. 6 (1979) 65-70.
    """
    present = [code for code in range(len(labels)) if (codes == code).any()]
    found: list[tuple[int, int, float | None, str]] = []
    for first, second in combinations(present, 2):
        patients = np.flatnonzero((codes == first) | (codes == second))
        try:
            found.append((first, second, test(outcome.take(patients), codes[patients]).p, ""))
        except StatisticsError as error:
            found.append((first, second, None, str(error)))
    tested = [p for _, _, p, _ in found if p is not None]
    adjusted = iter(_holm(np.array(tested)).tolist())
    return tuple(
        PairTest(labels[a], labels[b], p, None if p is None else next(adjusted), note)
        for a, b, p, note in found
    )


def _holm(p: Floats) -> Floats:
    order = np.argsort(p, kind="stable")
    raised = np.maximum.accumulate(p[order] * (len(p) - np.arange(len(p))))
    adjusted = np.empty_like(p)
    adjusted[order] = np.minimum(raised, 1)
    return adjusted


def _ratio(above: Floats, below: Floats) -> Floats:
    """Quotients, 0 where there is nothing to divide by."""
    shape = np.broadcast_shapes(above.shape, below.shape)
    return np.divide(above, below, out=np.zeros(shape), where=below > 0)
