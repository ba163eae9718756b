"""Who was left out, at which step and why: every join hands one of these on."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Literal

import pandas as pd

from storm_clinic.errors import CohortError

Unit = Literal["rows", "patients", "slides"]


@dataclass(frozen=True)
class AttritionStep:
    """One join or filter.

    Attributes
    ----------
    step : str
        What is kept, e.g. ``with outcome pfi``.
    unit : {"rows", "patients", "slides"}
        What is counted; ``rows`` of a table before one row a patient or slide is left.
    n_before, n_after : int
    excluded : tuple of (id, reason)
        One entry for each that was left out.

    Raises
    ------
    CohortError
        If the numbers do not add up, or a patient or slide is left out twice.
    """

    step: str
    unit: Unit
    n_before: int
    n_after: int
    excluded: tuple[tuple[str, str], ...] = field(default=(), repr=False)

    def __post_init__(self) -> None:
        if self.n_after < 0 or self.n_before - len(self.excluded) != self.n_after:
            raise CohortError(
                f"{self.n_before} {self.unit} less {len(self.excluded)} are not {self.n_after}",
                where=f"attrition step {self.step!r}",
            )
        ids = [name for name, _ in self.excluded]
        if self.unit != "rows" and len(set(ids)) < len(ids):
            raise CohortError(
                f"{len(ids) - len(set(ids))} {self.unit} are left out twice",
                where=f"attrition step {self.step!r}",
            )


@dataclass(frozen=True)
class Attrition:
    """Steps in order.

    Raises
    ------
    CohortError
        If a step of patients (or slides) does not start with what the one before left.
    """

    steps: tuple[AttritionStep, ...] = ()

    def __post_init__(self) -> None:
        left: dict[str, AttritionStep] = {}
        for step in self.steps:
            before = left.get(step.unit)
            if step.unit != "rows" and before is not None and before.n_after != step.n_before:
                raise CohortError(
                    f"{before.n_after} {step.unit} are left by {before.step!r}, "
                    f"but {step.n_before} enter {step.step!r}",
                    where="attrition",
                )
            left[step.unit] = step

    @classmethod
    def left_out(
        cls,
        step: str,
        ids: Iterable[str],
        reasons: Mapping[str, str],
        *,
        unit: Literal["patients", "slides"] = "patients",
    ) -> Attrition:
        """One step from these ids to those of them that have no reason to be left out."""
        entered = tuple(ids)
        excluded = tuple((name, reasons[name]) for name in entered if name in reasons)
        n_after = len(entered) - len(excluded)
        return cls((AttritionStep(step, unit, len(entered), n_after, excluded),))

    def __iter__(self) -> Iterator[AttritionStep]:
        return iter(self.steps)

    def __len__(self) -> int:
        return len(self.steps)

    def joined(self, other: Attrition) -> Attrition:
        """These steps, then the other's."""
        return Attrition((*self.steps, *other.steps))

    def table(self) -> pd.DataFrame:
        """One row a step and reason, without ids: ``step, unit, before, after, reason, n``.

        A step that left nobody out has one row, with an empty reason and n = 0.
        """
        rows = [
            (step.step, step.unit, step.n_before, step.n_after, reason, n)
            for step in self.steps
            for reason, n in Counter(reason for _, reason in step.excluded).items() or (("", 0),)
        ]
        return pd.DataFrame(rows, columns=["step", "unit", "before", "after", "reason", "n"])

    def excluded(self) -> pd.DataFrame:
        """One row for each that was left out: ``id, unit, step, reason``."""
        rows = [
            (name, step.unit, step.step, reason)
            for step in self.steps
            for name, reason in step.excluded
        ]
        return pd.DataFrame(rows, columns=["id", "unit", "step", "reason"])
