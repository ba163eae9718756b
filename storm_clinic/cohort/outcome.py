"""What happened to the patients: three frozen types, validated once, at the edge. Months inside."""

from __future__ import annotations

from collections.abc import Sequence
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
        If shapes differ, a time is missing, not finite or not positive, an entry is not before
        its time, events are not bool, or there is no patient.
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
        _check_times(self.time_months, self.entry_months, self.event)
        # Integers would turn ~event into nonsense without a word.
        if self.event.dtype != np.bool_:
            raise OutcomeError(
                f"events must be bool, not {self.event.dtype}", fix="Use Survival.from_arrays."
            )

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
        As in `Survival`.

    Raises
    ------
    OutcomeError
        As `Survival`, and if there are fewer than two causes, one is named twice, or a cause
        is not an integer from 0 to the number of causes.
    """

    time_months: Floats
    cause: Ints
    causes: tuple[str, ...]
    entry_months: Floats | None = None

    def __post_init__(self) -> None:
        _check_times(self.time_months, self.entry_months, self.cause)
        _check_names(self.causes, "competing risks", "causes")
        _check_codes(self.cause, len(self.causes), "causes")

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
        if not 1 <= cause <= len(self.causes):
            raise OutcomeError(f"there is no cause {cause}; there are 1 to {len(self.causes)}")
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

    Raises
    ------
    OutcomeError
        If there is no patient, fewer than two levels, a level twice, or a label that is not the
        position of a level.
    """

    label: Ints
    levels: tuple[str, ...]

    def __post_init__(self) -> None:
        if not len(self.label):
            raise OutcomeError("there is no patient")
        _check_names(self.levels, "classes", "levels")
        _check_codes(self.label, len(self.levels) - 1, "labels")

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


def concatenate(outcomes: Sequence[Outcome]) -> Outcome:
    """Patients of several cohorts one after another.

    Where only some cohorts have entry times, the others' patients enter at 0.

    Raises
    ------
    OutcomeError
        If there is none, or their types, causes or levels differ.
    """
    if len({_kind(outcome) for outcome in outcomes}) != 1:
        raise OutcomeError(
            "only outcomes of one kind, with the same causes or levels, can be joined",
            fix="Declare the endpoint alike in every cohort.yaml.",
        )
    classes = [outcome for outcome in outcomes if isinstance(outcome, Classes)]
    if classes:
        return Classes(np.concatenate([o.label for o in classes]), classes[0].levels)
    timed = [outcome for outcome in outcomes if not isinstance(outcome, Classes)]
    times = np.concatenate([o.time_months for o in timed])
    entry = None
    if any(o.entry_months is not None for o in timed):
        zeros = [np.zeros(len(o)) if o.entry_months is None else o.entry_months for o in timed]
        entry = np.concatenate(zeros)
    competing = [o for o in timed if isinstance(o, CompetingRisks)]
    if competing:
        cause = np.concatenate([o.cause for o in competing])
        return CompetingRisks(times, cause, competing[0].causes, entry)
    return Survival(times, np.concatenate([stratum(o) for o in timed]) == 1, entry)


def _kind(outcome: Outcome) -> tuple[str, ...]:
    if isinstance(outcome, Survival):
        return ("survival",)
    if isinstance(outcome, CompetingRisks):
        return ("competing", *outcome.causes)
    return ("classes", *outcome.levels)


def required_strata(outcome: Outcome) -> tuple[int, ...]:
    """Strata without which a fold cannot be scored.

    Ranking needs events (of the cause of interest), classes need every level; a fold in which
    nobody is censored can be scored.
    """
    if isinstance(outcome, Classes):
        return tuple(range(len(outcome.levels)))
    return (1,)


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


def _check_times(time: Floats, entry: Floats | None, status: NDArray[Any]) -> None:
    if time.ndim != 1 or time.shape != status.shape:
        raise OutcomeError(f"times of shape {time.shape} for events of shape {status.shape}")
    if len(time) == 0:
        raise OutcomeError("there is no patient")
    bad = ~(np.isfinite(time) & (time > 0))
    if bad.any():
        at = int(np.flatnonzero(bad)[0])
        raise OutcomeError(
            f"times must be finite and positive; {int(bad.sum())} are not, "
            f"the first at position {at} ({time[at]})"
        )
    if entry is None:
        return
    if entry.shape != time.shape:
        raise OutcomeError(f"entry times of shape {entry.shape} for times of shape {time.shape}")
    late = ~((entry >= 0) & (entry < time))
    if late.any():
        raise OutcomeError(
            f"entry must lie from 0 to before the time; {int(late.sum())} do not, "
            f"the first at position {int(np.flatnonzero(late)[0])}"
        )


def _check_names(names: tuple[str, ...], whose: str, what: str) -> None:
    if len(names) < 2:
        raise OutcomeError(f"{whose} need at least two {what}")
    if len(set(names)) < len(names):
        raise OutcomeError(f"{what} must differ: {', '.join(names)}")


def _check_codes(codes: Ints, highest: int, what: str) -> None:
    if not np.issubdtype(codes.dtype, np.integer):
        raise OutcomeError(f"{what} must be integers, not {codes.dtype}")
    if not 0 <= codes.min() <= codes.max() <= highest:
        raise OutcomeError(f"{what} must lie between 0 and {highest}")
