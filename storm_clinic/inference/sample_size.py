"""What all calculations of sample size share: criteria, the largest of them, and legal ranges."""

from __future__ import annotations

from dataclasses import dataclass

from storm_clinic.errors import StatisticsError

Z = 1.96  # as printed in the papers, so that their worked examples come out to the patient


@dataclass(frozen=True)
class Criterion:
    """One criterion and what it needs.

    Attributes
    ----------
    name : str
    n_patients : int
        The fewest patients that fulfil it.
    target : str
        What they are needed for, in words.
    """

    name: str
    n_patients: int
    target: str


@dataclass(frozen=True)
class SampleSize:
    """All criteria of one design; a study needs the largest of them.

    Attributes
    ----------
    criteria : tuple of Criterion
    event_share : float
        Events expected a patient.
    """

    criteria: tuple[Criterion, ...]
    event_share: float

    @property
    def n_patients(self) -> int:
        return max(criterion.n_patients for criterion in self.criteria)

    @property
    def n_events(self) -> float:
        """Events expected among that many patients."""
        return self.n_patients * self.event_share

    def of(self, name: str) -> int:
        """Patients that one criterion needs."""
        return next(c.n_patients for c in self.criteria if c.name == name)


def require_share(value: float, what: str) -> float:
    """A number strictly between 0 and 1.

    Raises
    ------
    StatisticsError
        If it is not.
    """
    if not 0 < value < 1:
        raise StatisticsError(f"{what} {value:g}", fix="Legal are values between 0 and 1.")
    return float(value)


def require_positive(value: float, what: str) -> float:
    """A finite number above 0.

    Raises
    ------
    StatisticsError
        If it is not.
    """
    if not 0 < value < float("inf"):
        raise StatisticsError(f"{what} {value:g}", fix="Legal are finite values above 0.")
    return float(value)
