"""Who the patients are: variables in moments, and how two cohorts differ in them."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import pandas as pd

from storm_clinic.errors import StatisticsError
from storm_clinic.inference.standardised_difference import (
    categorical_difference,
    continuous_difference,
)
from storm_clinic.validation.analyses import CaseMix, CovariateProfile

FEWEST_SHOWN = 5  # smaller levels are joined: moments travel with a locked model
JOINED = f"levels with fewer than {FEWEST_SHOWN} patients"


def profile(cohort: str, table: pd.DataFrame) -> tuple[CovariateProfile, ...]:
    """Moments of each column: mean and standard deviation, or counts of levels.

    Levels with fewer than five patients are joined into one, so that what is stored beside a model
    describes no single patient.

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
    counts = {str(level): int(n) for level, n in known.value_counts(sort=False).items()}
    shown = {level: n for level, n in counts.items() if n >= FEWEST_SHOWN}
    rest = sum(counts.values()) - sum(shown.values())
    if rest:
        shown[JOINED] = rest
    return CovariateProfile(
        kind="categorical", levels=tuple(shown), counts=tuple(shown.values()), **about
    )


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
    return CaseMix(
        cohort=evaluated.cohort,
        variable=evaluated.variable,
        development=development,
        evaluated=evaluated,
        standardised_difference=difference,
        note=note,
    )


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
    return categorical_difference(*(_counts(item, kept) for item in (own, other)))


def _told(level: str, counts: dict[str, int]) -> bool:
    """Whether a cohort's count of a level is known: shown, or certainly none."""
    return level in counts or JOINED not in counts


def _counts(counts: dict[str, int], kept: Sequence[str]) -> list[int]:
    """Of the kept levels, and of all others together."""
    shown = [counts.get(level, 0) for level in kept]
    return [*shown, sum(counts.values()) - sum(shown)]
