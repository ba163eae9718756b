"""What a regression that imputes covariates sees of the outcome."""

from __future__ import annotations

import numpy as np

from storm_clinic.cohort.outcome import Classes, Floats, Outcome, Survival


def outcome_columns(outcome: Outcome) -> Floats:
    """What the imputation models see of the outcome, (n_patients, n_numbers).

    With times, for each cause the event (0/1) and the Nelson-Aalen cumulative hazard from entry to
    the patient's own time; with classes, 0/1 for each level but the first.
    """
    if isinstance(outcome, Classes):
        hot = outcome.label[:, None] == np.arange(1, len(outcome.levels))
        return np.asarray(hot, dtype=np.float64)
    causes = (
        [outcome]
        if isinstance(outcome, Survival)
        else [outcome.cause_specific(k + 1) for k in range(len(outcome.causes))]
    )
    return np.column_stack([c for one in causes for c in (one.event, cumulative_hazard(one))])


def cumulative_hazard(outcome: Survival) -> Floats:
    """Nelson-Aalen estimate of each patient's cumulative hazard from entry to the own time."""
    times, deaths = np.unique(outcome.time_months[outcome.event], return_counts=True)
    leaving = np.sort(outcome.time_months)
    at_risk = len(leaving) - np.searchsorted(leaving, times, side="left")
    if outcome.entry_months is not None:
        entering = np.sort(outcome.entry_months)
        at_risk = at_risk - (len(entering) - np.searchsorted(entering, times, side="left"))
    hazard = np.append(0.0, np.cumsum(deaths / at_risk))
    own = hazard[np.searchsorted(times, outcome.time_months, side="right")]
    if outcome.entry_months is not None:
        own = own - hazard[np.searchsorted(times, outcome.entry_months, side="right")]
    return np.asarray(own)
