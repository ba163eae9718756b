"""The widths that a validation aims at, and what its patients give, gathered into requirements."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, field

from storm_clinic.errors import PredictionsError, StatisticsError
from storm_clinic.inference.sample_size import Z
from storm_clinic.inference.sample_size_survival import size_for
from storm_clinic.inference.sample_size_validation import log_ratio_error, log_ratio_width
from storm_clinic.validation.analyses import Adequacy, Requirement


@dataclass(frozen=True)
class Targets:
    """Widths of 95% intervals that are aimed at: conventions, named on the page.

    Attributes
    ----------
    c : float
        Of C and AUC; 0.1 in Riley et al. (2021).
    ratio : float
        Of observed/expected: with 0.4 a model that is right can be shown to lie between 0.8 and
        1.25.
    slope : float
        Of the calibration slope; 0.4 says that it lies between 0.8 and 1.2.
    """

    c: float = 0.1
    ratio: float = 0.4
    slope: float = 0.4


@dataclass
class Ledger:
    """Requirements of one cohort as they are found, and the phrases of its sentence.

    Attributes
    ----------
    cohort : str
    n_patients, n_events : int
    targets : Targets
    requirements : list of Requirement
    phrases, notes : list of str
    """

    cohort: str
    n_patients: int
    n_events: int
    targets: Targets
    requirements: list[Requirement] = field(default_factory=list)
    phrases: list[str] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)

    def width(
        self, name: str, target: float, error: Callable[[], float], *, digits: int, said: bool
    ) -> None:
        """A measure whose interval is symmetric; ``error`` gives its standard error here."""
        found = self._need(
            name, target, error, target / (2 * Z), lambda e: f"{2 * Z * e:.{digits}f} wide"
        )
        if said and found is not None:
            # Rounded up: the promise is not larger than the number.
            reach = math.ceil(Z * found * 100 - 1e-9) / 100
            self.phrases.append(f"{name} within ±{reach:.2f}")

    def ratio(self, name: str, error: Callable[[], float], *, said: bool) -> None:
        """A ratio whose interval is symmetric on the log scale."""
        target = self.targets.ratio
        found = self._need(
            name, target, error, log_ratio_error(target), lambda e: f"{log_ratio_width(e):.2f} wide"
        )
        if said and found is not None:
            low, high = math.exp(-Z * found), math.exp(Z * found)
            self.phrases.append(f"{name} between {low:.2f} and {high:.2f} if it is 1")

    def adequacy(self, method: str) -> Adequacy:
        """All of it, with its sentence."""
        events = f"{self.n_events} event{'' if self.n_events == 1 else 's'}"
        start = f"With {events} among {self.n_patients} patients this study"
        *others, last = self.phrases or ["no measure of performance"]
        listed = f"{', '.join(others)} and {last}" if others else last
        condition = ", if the predictions are right" if self.phrases else ""
        return Adequacy(
            cohort=self.cohort,
            stage="validation",
            requirements=tuple(self.requirements),
            sentence=f"{start} can place {listed}{condition}.",
            method=method,
            note="; ".join(dict.fromkeys(self.notes)),
        )

    def _need(
        self,
        name: str,
        width: float,
        error: Callable[[], float],
        aim: float,
        in_words: Callable[[float], str],
    ) -> float | None:
        found, problem = None, ""
        try:
            found = error()
        except (StatisticsError, PredictionsError) as reason:
            problem = str(reason)
        if found is not None and found <= 0:
            found, problem = None, "these patients show no spread: an error of 0 says nothing"
        needed = None if found is None else size_for(found, aim, self.n_patients)
        self.requirements.append(
            Requirement(
                criterion=name,
                needed_patients=needed,
                needed_events=None if needed is None else self._events(needed),
                available_patients=self.n_patients,
                available_events=self.n_events,
                target=f"interval of {name} {width:g} wide",
                reached="not known" if found is None else in_words(found),
                enough=None if needed is None else needed <= self.n_patients,
                note=problem,
            )
        )
        return found

    def _events(self, n_patients: int) -> int:
        return math.ceil(n_patients * self.n_events / self.n_patients - 1e-9)
