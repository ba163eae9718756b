"""Comparing groups of patients: groups by fixed thresholds, and the log-rank test."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike
from scipy.stats import chi2

from storm_clinic.cohort.outcome import Floats, Ints, Survival
from storm_clinic.errors import StatisticsError
from storm_clinic.metrics.risk_sets import RiskSets


def risk_groups(risk: ArrayLike, thresholds: ArrayLike) -> Ints:
    """Group of each patient, 0 = lowest risk; a risk equal to a threshold is in the upper group.

    Thresholds must come from development data: cut points chosen on the data at hand make a
    log-rank test reject far too often.

    Parameters
    ----------
    risk : float array, shape (n_patients,)
        On the scale of the thresholds.
    thresholds : float array, shape (n_groups - 1,)
        Strictly ascending.

    Raises
    ------
    StatisticsError
        If a risk is not finite or the thresholds do not ascend.
    """
    values, cuts = np.asarray(risk, dtype=np.float64), np.asarray(thresholds, dtype=np.float64)
    if not np.isfinite(values).all():
        raise StatisticsError(f"{int((~np.isfinite(values)).sum())} risks are missing or infinite")
    if not np.isfinite(cuts).all() or (np.diff(cuts) <= 0).any():
        raise StatisticsError(f"thresholds must be finite and ascend, not {cuts.tolist()}")
    return np.searchsorted(cuts, values, side="right").astype(np.int64)


@dataclass(frozen=True)
class LogRank:
    """Log-rank test of equal hazards; observed and expected events in the order of the groups."""

    chi2: float
    df: int
    p: float
    observed: tuple[float, ...]
    expected: tuple[float, ...]
    n_patients: int
    n_events: int
    method: str = "log-rank test"


def log_rank(outcome: Survival, groups: ArrayLike) -> LogRank:
    """Log-rank test over two or more groups, as R's ``survdiff``.

    Parameters
    ----------
    outcome : Survival
        Entry times are honoured.
    groups : array, shape (n_patients,)
        Label of each patient's group.

    Raises
    ------
    StatisticsError
        If there is only one group or no event.

    References
    ----------
    Harrington & Fleming, Biometrika 69 (1982) 553-566 (rho = 0).
    """
    labels, codes = np.unique(np.asarray(groups), return_inverse=True)
    if codes.shape != (outcome.n_patients,):
        raise StatisticsError(f"{codes.shape} groups for {outcome.n_patients} patients")
    if len(labels) < 2:
        raise StatisticsError("one group of patients", fix="A test needs at least two.")
    if not outcome.n_events:
        raise StatisticsError(f"no event among {outcome.n_patients} patients")
    member = (codes == np.arange(len(labels))[:, None]).astype(np.float64)
    by_group, _, at_risk = RiskSets(outcome).counts(member)
    observed, expected, covariance = _tables(by_group, at_risk)
    # A group that nobody is left in at the first event says nothing; the last of the others is
    # given by the rest.
    informative = np.flatnonzero(expected > 0)[:-1]
    df = len(informative)
    if not df:
        raise StatisticsError("only one group has anybody at risk at an event")
    difference = (observed - expected)[informative]
    inverse = np.linalg.pinv(covariance[np.ix_(informative, informative)], hermitian=True)
    value = float(difference @ inverse @ difference)
    return LogRank(
        value,
        df,
        float(chi2.sf(value, df)),
        tuple(observed.tolist()),
        tuple(expected.tolist()),
        outcome.n_patients,
        outcome.n_events,
    )


def _tables(events: Floats, at_risk: Floats) -> tuple[Floats, Floats, Floats]:
    """Observed, expected and hypergeometric covariance over the times, by group."""
    d, n = events.sum(axis=0), at_risk.sum(axis=0)
    share = np.divide(at_risk, n, out=np.zeros_like(at_risk), where=n > 0)
    # Events left to chance at a time: d (n - d) / (n - 1); one patient at risk leaves none.
    free = np.divide(d * (n - d), n - 1, out=np.zeros_like(d), where=n > 1)
    covariance = np.diag((share * free).sum(axis=1)) - (share * free) @ share.T
    return events.sum(axis=1), (share * d).sum(axis=1), covariance
