"""Who the patients are: variables in moments, and how two cohorts differ in them."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import ArrayLike

from storm_clinic.cohort.outcome import Classes, Outcome
from storm_clinic.errors import StatisticsError
from storm_clinic.inference.standardised_difference import (
    categorical_difference,
    continuous_difference,
)
from storm_clinic.metrics.inputs import all_causes, of_interest
from storm_clinic.validation.analyses import CaseMix, CovariateProfile

FEWEST_SHOWN = 5  # smaller levels are joined: moments travel with a locked model
JOINED = "rare levels together"
RISK = "linear predictor"
_STATES = ["event", "another event", "event-free", "left before"]


def profile(cohort: str, table: pd.DataFrame) -> tuple[CovariateProfile, ...]:
    """Moments of each column: mean and standard deviation, or counts of levels.

    Levels with fewer than five patients are joined, if need be with the next larger level, so that
    no count of one to four is stored beside a model; of fewer than five known values there are no
    moments.

    Parameters
    ----------
    cohort : str
        What the profiles are of.
    table : DataFrame
        Continuous columns float64 with NaN, others categorical; one row a patient.
    """
    return tuple(_profile(cohort, str(name), table[name]) for name in table)


def _profile(cohort: str, variable: str, column: pd.Series[Any]) -> CovariateProfile:
    known = column.dropna()
    about = {
        "cohort": cohort,
        "variable": variable,
        "n_known": len(known),
        "n_missing": len(column) - len(known),
    }
    if not isinstance(column.dtype, pd.CategoricalDtype):
        values = known.to_numpy(np.float64)
        enough = len(values) >= FEWEST_SHOWN
        return CovariateProfile(
            kind="continuous",
            mean=float(values.mean()) if enough else None,
            sd=float(values.std(ddof=1)) if enough else None,
            **about,
        )
    shown = _shown({str(level): int(n) for level, n in known.value_counts(sort=False).items()})
    return CovariateProfile(
        kind="categorical", levels=tuple(shown), counts=tuple(shown.values()), **about
    )


def _shown(counts: dict[str, int]) -> dict[str, int]:
    """Counts of levels, small ones joined with so many others that no fewer than five remain."""
    present = {level: n for level, n in counts.items() if n}
    joined: list[str] = []
    # One small level alone would be told by its joint name, so the next larger one goes with it.
    for level in sorted(present, key=lambda name: present[name]):
        if present[level] >= FEWEST_SHOWN and (
            not joined or sum(present[name] for name in joined) >= FEWEST_SHOWN
        ):
            break
        joined.append(level)
    shown = {level: n for level, n in present.items() if level not in joined}
    return shown | ({JOINED: sum(present[level] for level in joined)} if joined else {})


def outcome_profile(
    cohort: str, outcome: Outcome, horizons_months: Sequence[float] = ()
) -> tuple[CovariateProfile, ...]:
    """How often the outcome happened and how long patients were followed; beside `profile`.

    Times: months under observation, and for each horizon how many had the event, another event,
    neither, or had left before. Classes: how many of each.

    Parameters
    ----------
    cohort : str
        What the profiles are of.
    outcome : Survival, CompetingRisks or Classes
        Of the same patients.
    horizons_months : sequence of float
        Not for classes.
    """
    if isinstance(outcome, Classes):
        labels = [outcome.levels[k] for k in outcome.label]
        table = {"outcome": pd.Categorical(labels, categories=outcome.levels)}
        return profile(cohort, pd.DataFrame(table))
    time, event, any_event = outcome.time_months, of_interest(outcome), all_causes(outcome).event
    columns: dict[str, Any] = {"months under observation": time}
    for horizon in horizons_months:
        by = time <= horizon
        state = np.select(
            [by & event, by & any_event, ~by | (time == horizon)], _STATES[:3], _STATES[3]
        )
        columns[f"by {horizon:g} months"] = pd.Categorical(state, categories=_STATES)
    return profile(cohort, pd.DataFrame(columns))


def risk_profile(cohort: str, model: str, linear_predictor: ArrayLike) -> CovariateProfile:
    """Mean and spread of a model's linear predictor.

    Where its spread is smaller than in development, patients are more alike, and a C-index is lower
    without the model being worse.

    Parameters
    ----------
    cohort, model : str
        What the profile is of.
    linear_predictor : float array, shape (n_patients,)
        On one scale in both cohorts; NaN where a patient has none.

    References
    ----------
    Debray et al., J. Clin. Epidemiol. 68 (2015) 279-289.
    """
    name = f"{RISK} of {model}"
    values = np.asarray(linear_predictor, dtype=np.float64)
    return profile(cohort, pd.DataFrame({name: values}))[0]


def case_mix(
    development: Sequence[CovariateProfile], evaluated: Sequence[CovariateProfile]
) -> tuple[CaseMix, ...]:
    """Standardised difference of each variable that both cohorts have; evaluated less development.

    A level that one cohort joined with others is joined in both.
    """
    before = {item.variable: item for item in development}
    return tuple(
        _compared(before[item.variable], item) for item in evaluated if item.variable in before
    )


def _compared(development: CovariateProfile, evaluated: CovariateProfile) -> CaseMix:
    difference, note = None, ""
    if development.kind != evaluated.kind:
        note = f"{development.kind} in development, {evaluated.kind} here"
    else:
        try:
            difference = _difference(development, evaluated)
        except StatisticsError as error:
            note = str(error)
        if evaluated.variable.startswith(RISK):
            note = _spread(development, evaluated) or note
    return CaseMix(
        cohort=evaluated.cohort,
        variable=evaluated.variable,
        development=development,
        evaluated=evaluated,
        standardised_difference=difference,
        note=note,
    )


def _spread(development: CovariateProfile, evaluated: CovariateProfile) -> str:
    if not development.sd or evaluated.sd is None:
        return ""
    ratio = evaluated.sd / development.sd
    return f"spread here is {ratio:.2f} times that of development; less spread lowers C by itself"


def _difference(development: CovariateProfile, evaluated: CovariateProfile) -> float:
    if evaluated.kind == "continuous":
        moments = (evaluated.mean, evaluated.sd, development.mean, development.sd)
        if any(value is None for value in moments):
            raise StatisticsError(f"fewer than {FEWEST_SHOWN} patients have a value")
        return continuous_difference(*(float(value or 0.0) for value in moments))
    own, other = (
        dict(zip(item.levels, item.counts, strict=True)) for item in (evaluated, development)
    )
    shared = [level for level in (*own, *other) if level != JOINED]
    kept = [level for level in dict.fromkeys(shared) if _told(level, own) and _told(level, other)]
    if not kept:
        raise StatisticsError("no level is frequent enough in both cohorts to be compared")
    return categorical_difference(*(_counts(item, kept) for item in (own, other)))


def _told(level: str, counts: dict[str, int]) -> bool:
    """Whether a cohort's count of a level is known: shown, or certainly none."""
    return level in counts or JOINED not in counts


def _counts(counts: dict[str, int], kept: Sequence[str]) -> list[int]:
    """Of the kept levels, and of all others together."""
    shown = [counts.get(level, 0) for level in kept]
    return [*shown, sum(counts.values()) - sum(shown)]
