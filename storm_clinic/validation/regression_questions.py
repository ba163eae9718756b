"""What regressions ask of a model's risk: alone, beside the clinical model, beside covariates."""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np
import pandas as pd

from storm_clinic.cohort.outcome import Bools, Classes, CompetingRisks, Outcome, Survival
from storm_clinic.errors import StatisticsError
from storm_clinic.inference.cox import fit_cox
from storm_clinic.inference.design_matrix import Coding, Design, only
from storm_clinic.inference.fine_gray import fit_fine_gray
from storm_clinic.inference.fitted import Fitted, Kind
from storm_clinic.inference.logistic import fit_logistic
from storm_clinic.validation.evaluation_data import EvaluationData
from storm_clinic.validation.risk_scale import RiskCovariate, risk_covariate


@dataclass(frozen=True, eq=False)
class Question:
    """One regression to be fitted to the evaluated patients, or to completed copies of them.

    Attributes
    ----------
    model : str
        Whose risk is asked about.
    title : str
    beside : str
        What the risk is beside, in words; empty where it is alone.
    risk : RiskCovariate
    comparator : RiskCovariate or None
        The clinical model's risk.
    coding : Coding or None
        Of covariates.
    table : DataFrame or None
        The covariates with their gaps, n_patients rows.
    refused : str
        Why this cannot be asked; empty where it can.
    """

    model: str
    title: str
    beside: str
    risk: RiskCovariate
    comparator: RiskCovariate | None = None
    coding: Coding | None = None
    table: pd.DataFrame | None = None
    refused: str = ""

    @property
    def notes(self) -> tuple[str, ...]:
        """What was unusual about the risks and covariates, each once."""
        notes = list(self.risk.notes)
        notes += self.comparator.notes if self.comparator else ()
        notes += self.coding.notes if self.coding else ()
        return tuple(dict.fromkeys(notes))

    def design(self, table: pd.DataFrame | None = None) -> Design:
        """Columns of all patients, the risk first.

        Parameters
        ----------
        table : DataFrame, n_patients rows, optional
            A completed copy of the covariates; by default they keep their gaps.
        """
        if self.comparator is not None:
            return only(self.comparator.name, self.comparator.values).behind(
                self.risk.name, self.risk.values
            )
        covariates = self.table if table is None else table
        if self.coding is None or covariates is None:
            return only(self.risk.name, self.risk.values)
        return self.coding.design(covariates).behind(self.risk.name, self.risk.values)

    def for_copies(self) -> Question:
        """The same, its covariates coded on all patients: for completed copies of the table."""
        if self.table is None:
            return self
        coding = Coding.of(self.table)
        reason = "" if coding.columns else self.refused
        return replace(self, coding=coding, refused=reason)

    @property
    def complete(self) -> Bools:
        """Patients without a gap, shape (n_patients,)."""
        return self.design().complete


def questions(model: str, data: EvaluationData) -> list[Question]:
    """What is asked of one model: its risk alone, beside the comparator's, beside covariates.

    The comparator itself is asked about alone: its risk is made of the covariates.

    A comparator that gives all patients the same risk is no covariate: the question beside it
    carries the reason in ``refused``.

    Raises
    ------
    StatisticsError
        If the model itself gives all patients the same risk.
    """
    risk = risk_covariate(data.model(model), data)
    asked = [Question(model, f"Risk of {model} alone", "", risk)]
    if model == data.comparator:
        return asked
    if data.comparator is not None:
        asked.append(_beside_comparator(Question(model, "", "", risk), data.comparator, data))
    if data.covariates is not None:
        asked.append(_beside_covariates(Question(model, "", "", risk), data.covariates))
    return asked


def _beside_comparator(question: Question, comparator: str, data: EvaluationData) -> Question:
    beside = f"the risk of {comparator}"
    question = replace(question, title=f"Risk of {question.model} beside {beside}", beside=beside)
    try:
        return replace(question, comparator=risk_covariate(data.model(comparator), data))
    except StatisticsError as error:
        return replace(question, refused=str(error))


def _beside_covariates(question: Question, table: pd.DataFrame) -> Question:
    first = Coding.of(table)
    used = [column.name for column in first.columns]
    complete = table[used].notna().all(axis=1).to_numpy()
    if not complete.any():
        title, reason = f"{question.model} beside covariates", "no patient has all covariates known"
        return replace(
            question, title=f"Risk of {title}", coding=first, table=table, refused=reason
        )
    # Levels are those of patients who will be fitted: others would be columns of zeros.
    coding = Coding.of(table.loc[complete, used])
    notes = tuple(dict.fromkeys((*first.notes, *coding.notes)))
    beside = _listed([column.name for column in coding.columns]) or "covariates"
    return replace(
        question,
        title=f"Risk of {question.model} beside {beside}",
        beside=beside,
        coding=replace(coding, notes=notes),
        table=table,
        refused="" if coding.columns else f"No covariate can enter. {' '.join(notes)}".rstrip(),
    )


def _listed(names: list[str]) -> str:
    return ", ".join(names[:-1]) + (" and " if len(names) > 1 else "") + "".join(names[-1:])


def kinds_of(outcome: Outcome) -> tuple[Kind, ...]:
    """Regressions that an outcome calls for, the first one first.

    Raises
    ------
    StatisticsError
        If there are more than two classes.
    """
    if isinstance(outcome, CompetingRisks):
        return ("fine-gray", "cox")
    if isinstance(outcome, Survival):
        return ("cox",)
    if len(outcome.levels) > 2:
        raise StatisticsError(
            f"regressions of {len(outcome.levels)} classes are not made",
            fix="Compare one class with the rest.",
        )
    return ("logistic",)


def hazard_outcome(outcome: Outcome) -> Survival | None:
    """What a Cox model is about: with competing risks, the first cause alone; None for classes."""
    if isinstance(outcome, CompetingRisks):
        return outcome.cause_specific()
    return outcome if isinstance(outcome, Survival) else None


def fit_on(design: Design, outcome: Outcome, kind: Kind) -> Fitted:
    """Fit one complete design; called for each completed copy where covariates are imputed.

    With ``q = question.for_copies()``, ``lambda table: fit_on(q.design(table), outcome, kind)``
    gives, for every completed table, coefficients of the same names in the same order.

    Parameters
    ----------
    design : Design, n_patients rows
        Without a gap.
    outcome : Survival, CompetingRisks or Classes, length n_patients
        The same patients.
    kind : {"cox", "fine-gray", "logistic"}
        With competing risks "cox" is the cause-specific hazard of the first cause.

    Raises
    ------
    StatisticsError
        If the kind does not fit the outcome, or as the regression itself.
    """
    survival = hazard_outcome(outcome)
    if kind == "cox" and survival is not None:
        return fit_cox(design.matrix, survival, names=design.names)
    if kind == "fine-gray" and isinstance(outcome, CompetingRisks):
        return fit_fine_gray(design.matrix, outcome, names=design.names)
    if kind == "logistic" and isinstance(outcome, Classes):
        event = np.asarray(outcome.label == len(outcome.levels) - 1)
        return fit_logistic(design.matrix, event, names=design.names)
    raise StatisticsError(f"a {kind} regression does not fit a {type(outcome).__name__} outcome")
