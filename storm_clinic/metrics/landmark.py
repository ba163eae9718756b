"""Patients still event-free at a month, and how well risks rank what happens to them from there."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike

from storm_clinic.cohort.outcome import CompetingRisks, Ints, Survival
from storm_clinic.errors import StatisticsError
from storm_clinic.metrics.competing import wolbers_concordance
from storm_clinic.metrics.discrimination import concordance
from storm_clinic.metrics.inputs import Timed, as_risk
from storm_clinic.metrics.uncertainty import Statistic


@dataclass(frozen=True, eq=False)
class AtLandmark:
    """Patients under observation and event-free at a month, their time counted from there.

    Attributes
    ----------
    patients : int64 array, shape (n_at_landmark,)
        Their positions in the cohort.
    outcome : Survival or CompetingRisks, length n_at_landmark
    months : float
        The landmark.
    """

    patients: Ints
    outcome: Timed
    months: float


def at_landmark(outcome: Timed, months: float) -> AtLandmark:
    """Select who is event-free and followed beyond a month, and count time from there.

    Whoever had an event (of any cause) or was censored at the very month is out, and so is
    whoever enters after it.

    Parameters
    ----------
    outcome : Survival or CompetingRisks
        The whole cohort.
    months : float
        At least 0, and before the last follow-up.

    Raises
    ------
    StatisticsError
        If nobody is left, or the landmark is negative.

    References
    ----------
    Anderson, Cain & Gelber, J. Clin. Oncol. 1 (1983) 710-719. van Houwelingen, Scand. J. Stat. 34
    (2007) 70-85.
    """
    if not 0 <= months < np.inf:
        raise StatisticsError(f"a landmark at {months:g} months", fix="Legal are months from 0 on.")
    still = outcome.time_months > months
    if outcome.entry_months is not None:
        still &= outcome.entry_months <= months
    patients = np.flatnonzero(still)
    if not len(patients):
        raise StatisticsError(
            f"nobody of {outcome.n_patients} patients is event-free and followed beyond "
            f"{months:g} months",
            fix=f"Legal are landmarks before {outcome.time_months.max():g} months.",
        )
    after = outcome.time_months[patients] - months
    left: Timed = (
        Survival(after, outcome.event[patients])
        if isinstance(outcome, Survival)
        else CompetingRisks(after, outcome.cause[patients], outcome.causes)
    )
    return AtLandmark(patients, left, float(months))


def landmark_concordance(
    outcome: Timed,
    risk: ArrayLike,
    months: float,
    *,
    tau_months: float | None = None,
    within: ArrayLike | None = None,
) -> Statistic:
    """C-index of what happens after a landmark, among those still event-free there.

    Parameters
    ----------
    outcome : Survival or CompetingRisks, length n_patients
        Harrell's C, or Wolbers' C with competing risks.
    risk : float array, shape (n_patients,)
        As predicted at time 0; higher means worse.
    months : float
        The landmark.
    tau_months : float, optional
        Only events before this time, counted from 0 and not from the landmark, open a pair.
    within : array, shape (n_patients,), optional
        Compare patients of one fold only.

    Raises
    ------
    StatisticsError
        If nobody is left at the landmark, or it is not before ``tau_months``.
    NoComparablePairs
        If nobody left can be compared.
    """
    values = as_risk(risk, outcome)
    if tau_months is not None and not months < tau_months:
        raise StatisticsError(
            f"a landmark at {months:g} months, but no event from {tau_months:g} months on counts"
        )
    left = at_landmark(outcome, months)
    ahead = None if tau_months is None else tau_months - months
    folds = None if within is None else np.asarray(within)[left.patients]
    if isinstance(left.outcome, Survival):
        return concordance(left.outcome, values[left.patients], tau_months=ahead, within=folds)
    return wolbers_concordance(left.outcome, values[left.patients], tau_months=ahead, within=folds)
