"""What happened to the patients: three frozen types, validated once, at the edge. Months inside."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from storm_clinic.errors import OutcomeError

DAYS_PER_MONTH = 30.4375
MONTHS_PER = {"days": 1 / DAYS_PER_MONTH, "months": 1.0, "years": 12.0}

Floats = NDArray[np.float64]
Bools = NDArray[np.bool_]
Ints = NDArray[np.int64]


@dataclass(frozen=True, eq=False)
class Survival:
    """Right-censored times, optionally left-truncated.

    Attributes
    ----------
    time_months : float64 array, shape (n_patients,)
        Time to the event or to the end of follow-up; positive.
    event : bool array, shape (n_patients,)
        True where the event happened.
    entry_months : float64 array, shape (n_patients,), optional
        Time at which the patient came under observation; 0 <= entry < time.

    Raises
    ------
    OutcomeError
        If lengths differ, a time is missing, not finite or not positive, an entry is not before
        its time, or there is no patient.
    """

    time_months: Floats
    event: Bools
    entry_months: Floats | None = None

    @classmethod
    def from_arrays(
        cls, time_months: ArrayLike, event: ArrayLike, entry_months: ArrayLike | None = None
    ) -> Survival:
        """Build from anything array-like; events may be bool or 0/1, nothing else."""
        entry = None if entry_months is None else np.asarray(entry_months, dtype=np.float64)
        return cls(np.asarray(time_months, dtype=np.float64), _as_bool(event), entry)

    def __post_init__(self) -> None:
        _check_times(self.time_months, self.entry_months, len(self.event))

    def __len__(self) -> int:
        return len(self.time_months)

    @property
    def n_patients(self) -> int:
        return len(self.time_months)

    @property
    def n_events(self) -> int:
        return int(self.event.sum())

    def take(self, index: ArrayLike) -> Survival:
        """The patients at these positions (or under this mask), in that order."""
        at = np.asarray(index)
        entry = None if self.entry_months is None else self.entry_months[at]
        return Survival(self.time_months[at], self.event[at], entry)

    def to_structured(self) -> NDArray[Any]:
        """scikit-survival's structured array with fields ``event`` and ``time`` (months).

        Raises
        ------
        OutcomeError
            If there are entry times, which that array cannot hold.
        """
        if self.entry_months is not None:
            raise OutcomeError(
                "this model cannot use entry times (left truncation)",
                fix="Choose a model that can, or an endpoint without entry times.",
            )
        array = np.empty(len(self), dtype=[("event", bool), ("time", np.float64)])
        array["event"], array["time"] = self.event, self.time_months
        return array


@dataclass(frozen=True, eq=False)
class CompetingRisks:
    """Times to the first of several events.

    Attributes
    ----------
    time_months : float64 array, shape (n_patients,)
    cause : int64 array, shape (n_patients,)
        0 = censored, k = ``causes[k - 1]`` happened first.
    causes : tuple of str
        Names; the first is the cause of interest.
    entry_months : float64 array, shape (n_patients,), optional
    """

    time_months: Floats
    cause: Ints
    causes: tuple[str, ...]
    entry_months: Floats | None = None

    def __post_init__(self) -> None:
        _check_times(self.time_months, self.entry_months, len(self.cause))
        if len(self.causes) < 2:
            raise OutcomeError("competing risks need at least two causes")
        if len(self.cause) and not 0 <= self.cause.min() <= self.cause.max() <= len(self.causes):
            raise OutcomeError(f"causes must be coded 0 (censored) to {len(self.causes)}")

    def __len__(self) -> int:
        return len(self.time_months)

    @property
    def n_patients(self) -> int:
        return len(self.time_months)

    @property
    def n_events(self) -> int:
        """Events of the cause of interest."""
        return int((self.cause == 1).sum())

    def take(self, index: ArrayLike) -> CompetingRisks:
        """The patients at these positions (or under this mask), in that order."""
        at = np.asarray(index)
        entry = None if self.entry_months is None else self.entry_months[at]
        return CompetingRisks(self.time_months[at], self.cause[at], self.causes, entry)

    def cause_specific(self, cause: int = 1) -> Survival:
        """The same patients with every other cause counted as censoring."""
        return Survival(self.time_months, self.cause == cause, self.entry_months)


@dataclass(frozen=True, eq=False)
class Classes:
    """One class a patient.

    Attributes
    ----------
    label : int64 array, shape (n_patients,)
        Position in ``levels``.
    levels : tuple of str
        For two classes the second is the event.
    """

    label: Ints
    levels: tuple[str, ...]

    def __post_init__(self) -> None:
        if not len(self.label):
            raise OutcomeError("there is no patient")
        if len(self.levels) < 2:
            raise OutcomeError("classes need at least two levels")
        if not 0 <= self.label.min() <= self.label.max() < len(self.levels):
            raise OutcomeError(f"labels must lie between 0 and {len(self.levels) - 1}")

    def __len__(self) -> int:
        return len(self.label)

    @property
    def n_patients(self) -> int:
        return len(self.label)

    @property
    def n_events(self) -> int:
        """Patients of the last level (of two: the event)."""
        return int((self.label == len(self.levels) - 1).sum())

    def take(self, index: ArrayLike) -> Classes:
        """The patients at these positions (or under this mask), in that order."""
        return Classes(self.label[np.asarray(index)], self.levels)


Outcome = Survival | CompetingRisks | Classes


def stratum(outcome: Outcome) -> Ints:
    """Integer label by which folds are balanced: event, cause or class."""
    if isinstance(outcome, Survival):
        return outcome.event.astype(np.int64)
    return outcome.cause if isinstance(outcome, CompetingRisks) else outcome.label


def _as_bool(event: ArrayLike) -> Bools:
    array = np.asarray(event)
    if array.dtype == np.bool_:
        return array
    if not np.isin(array, (0, 1)).all():
        found = sorted({str(value) for value in array[~np.isin(array, (0, 1))].tolist()})
        raise OutcomeError(
            f"events must be 0 (censored) or 1 (happened), found {', '.join(found[:5])}",
            fix="Declare the codes, or recode before.",
        )
    return array.astype(np.bool_)


def _check_times(time: Floats, entry: Floats | None, n_status: int) -> None:
    if len(time) == 0:
        raise OutcomeError("there is no patient")
    if len(time) != n_status:
        raise OutcomeError(f"{len(time)} times for {n_status} events")
    bad = ~(np.isfinite(time) & (time > 0))
    if bad.any():
        raise OutcomeError(
            f"times must be finite and positive; {int(bad.sum())} are not, "
            f"the first at row {int(np.flatnonzero(bad)[0])} ({time[bad][0]})"
        )
    if entry is None:
        return
    if len(entry) != len(time):
        raise OutcomeError(f"{len(entry)} entry times for {len(time)} times")
    late = ~((entry >= 0) & (entry < time))
    if late.any():
        raise OutcomeError(
            f"entry must lie from 0 to before the time; {int(late.sum())} do not, "
            f"the first at row {int(np.flatnonzero(late)[0])}"
        )
