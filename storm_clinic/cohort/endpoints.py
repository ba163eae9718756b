"""From declared columns to outcomes: who has one, who has none and why."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass, field, replace

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from storm_clinic.cohort.attrition import Attrition
from storm_clinic.cohort.checks import Rule, declared, numeric
from storm_clinic.cohort.declarations import (
    ClassesEndpoint,
    CompetingEndpoint,
    EndpointDeclaration,
    SurvivalEndpoint,
)
from storm_clinic.cohort.outcome import MONTHS_PER, Classes, CompetingRisks, Outcome, Survival
from storm_clinic.cohort.values import canonical, is_number, to_codes, to_numbers
from storm_clinic.errors import NoOutcomeError, OutcomeError


@dataclass(frozen=True, eq=False)
class EndpointTable:
    """The patients who have an outcome, in the cohort's order.

    Attributes
    ----------
    patient_ids : tuple of str, length n_patients
    outcome : Survival, CompetingRisks or Classes, length n_patients
    attrition : Attrition
        One step, from all patients of the cohort to these.
    """

    patient_ids: tuple[str, ...] = field(repr=False)
    outcome: Outcome
    attrition: Attrition = field(repr=False)


def endpoint_columns(endpoint: EndpointDeclaration) -> list[str]:
    """Columns of the clinical table that an endpoint reads."""
    if isinstance(endpoint, ClassesEndpoint):
        return [endpoint.source]
    return [name for name in (endpoint.time, endpoint.event, endpoint.entry) if name]


def endpoint_rules(
    name: str, endpoint: EndpointDeclaration, missing: Collection[str]
) -> list[Rule]:
    """What the cells of an endpoint must be: declared codes, and times that are not negative."""
    at = f"endpoints.{name}"
    markers = {*missing, *endpoint.missing}
    if isinstance(endpoint, ClassesEndpoint):
        return [_as_outcome(declared(endpoint.source, f"{at}.levels", endpoint.meaning, markers))]
    rules = [_as_outcome(declared(endpoint.event, f"{at}.codes", endpoint.codes, markers))]
    for key, column in (("time", endpoint.time), ("entry", endpoint.entry)):
        if column:
            rules += [
                _as_outcome(numeric(column, f"{at}.{key}", markers)),
                _not_negative(column, f"{at}.{key}"),
            ]
    return rules


def derive_outcome(
    name: str, endpoint: EndpointDeclaration, cells: pd.DataFrame, missing: Collection[str]
) -> EndpointTable:
    """Outcomes of the patients that have one.

    Parameters
    ----------
    name : str
        The endpoint's name.
    endpoint : EndpointDeclaration
        Its declaration in cohort.yaml.
    cells : DataFrame of str, indexed by patient id
        The columns of `endpoint_columns`, already checked by `endpoint_rules`.
    missing : collection of str
        The cohort's markers of a missing value.

    Raises
    ------
    NoOutcomeError
        If nobody has an outcome.
    """
    markers = {*missing, *endpoint.missing}
    reasons = np.full(len(cells), "", dtype=object)
    if isinstance(endpoint, ClassesEndpoint):
        label = to_codes(cells[endpoint.source], endpoint.meaning)
        reasons[label < 0] = "no class recorded"
        keep = _kept(name, reasons)
        outcome: Outcome = Classes(label[keep], endpoint.levels)
    else:
        time, code, entry = _follow_up(endpoint, cells, markers, reasons)
        keep = _kept(name, reasons)
        entered = None if entry is None else entry[keep]
        if isinstance(endpoint, SurvivalEndpoint):
            outcome = Survival(time[keep], code[keep] == 1, entered)
        else:
            outcome = CompetingRisks(time[keep], code[keep], endpoint.causes, entered)
    without = dict(zip(cells.index[~keep], reasons[~keep], strict=True))
    attrition = Attrition.left_out(f"with outcome {name}", cells.index, without)
    return EndpointTable(tuple(cells.index[keep]), outcome, attrition)


def _follow_up(
    endpoint: SurvivalEndpoint | CompetingEndpoint,
    cells: pd.DataFrame,
    missing: set[str],
    reasons: NDArray[np.object_],
) -> tuple[NDArray[np.float64], NDArray[np.int64], NDArray[np.float64] | None]:
    """Months, codes and entries of all patients; fills in ``reasons`` of those without."""
    per_month = MONTHS_PER[endpoint.unit]
    time = to_numbers(cells[endpoint.time], missing) * per_month
    code = to_codes(cells[endpoint.event], endpoint.meaning)
    entry = None
    if endpoint.entry:
        entry = to_numbers(cells[endpoint.entry], missing) * per_month
        reasons[entry >= time] = "entry is not before the end of follow-up"
        reasons[np.isnan(entry)] = "no time of entry"
    reasons[time == 0] = "time is zero"
    reasons[np.isnan(time)] = "how follow-up ended is recorded, but no time"
    reasons[code < 0] = "a time is recorded, but not how follow-up ended"
    reasons[np.isnan(time) & (code < 0)] = "no outcome recorded"
    return time, code, entry


def _kept(name: str, reasons: NDArray[np.object_]) -> NDArray[np.bool_]:
    keep = np.asarray(reasons == "", dtype=np.bool_)
    if not keep.any():
        found = ", ".join(sorted(set(reasons.tolist()))) or "there are no patients"
        raise NoOutcomeError(f"no patient has this outcome: {found}", where=f"endpoint {name}")
    return keep


def _not_negative(column: str, declared_by: str) -> Rule:
    return Rule(
        column,
        declared_by,
        lambda cells: ~(is_number(cells) & cells.map(_is_negative).astype(bool)),
        "holds a negative time",
        "No follow-up ends before it began: correct the dates behind it.",
        OutcomeError,
    )


def _is_negative(text: str) -> bool:
    return canonical(text).startswith("-")


def _as_outcome(rule: Rule) -> Rule:
    return replace(rule, error=OutcomeError)
