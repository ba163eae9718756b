"""How well those rank who know what was planted: no model can be expected to do better."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from functools import lru_cache
from typing import Literal, cast

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from storm_clinic.cohort.outcome import Classes, CompetingRisks, Survival
from storm_clinic.metrics.discrimination import auroc, concordance, dynamic_auc
from storm_clinic.simulate.competing import log_hazards, true_incidence
from storm_clinic.simulate.expression import SCORE_GENES
from storm_clinic.simulate.grade import grade_probabilities
from storm_clinic.simulate.hospitals import HOSPITALS
from storm_clinic.simulate.patients import Patients, pfs_log_hazard, simulate_patients

Floats = NDArray[np.float64]
Knows = Literal["everything", "slides", "covariates", "rna"]

HORIZONS_MONTHS, TAU_MONTHS = (12.0, 24.0), 36.0  # as in the demo's studies
_MANY, _SEED = 20_000, 20261124


@dataclass(frozen=True)
class Ceiling:
    """What one reaches who knows a part of the truth, or all of it.

    Attributes
    ----------
    endpoint, metric : str
        The metric as in `storm_clinic.validation.measures`, except that ``auroc_macro`` is the
        mean over classes of the AUROC of each against the rest, ``c_index`` of competing risks is
        that of relapse among all who have not relapsed, dead or alive, as Wolbers estimates it,
        and ``c_index_cause`` counts death as the end of follow-up.
    knows : {"everything", "slides", "covariates", "rna"}
        The hidden score, age and stage; the score alone; age and stage alone; the sum of the genes
        that follow the score, among the measured. All but the first are listed where covariates
        matter, expression for ``pfs`` only. Ages and stages are known of everybody, and a score
        exactly: models have less.
    value : float
    horizon_months : float, optional
        Of ``auc``.
    """

    endpoint: str
    metric: str
    knows: Knows
    value: float
    horizon_months: float | None = None


def ceilings(patients: Patients) -> tuple[Ceiling, ...]:
    """What the truth reaches on these patients.

    Events from month 36 on rank nobody. The control is not listed: it follows nothing.

    Raises
    ------
    StatisticsError
        If there are too few patients.
    """
    return (
        *_of_pfs(patients),
        *_of_response(patients),
        *_of_grade(patients),
        *_of_outcome(patients),
    )


@lru_cache(maxsize=1)
def expected_ceilings() -> tuple[Ceiling, ...]:
    """What the truth reaches on 20,000 patients simulated for that: right to about 0.005."""
    many = replace(HOSPITALS[0], n_patients=_MANY)
    return ceilings(simulate_patients(many, np.random.default_rng(_SEED)))


def ceiling_table(seed: int) -> pd.DataFrame:
    """All ceilings, a row each, expected ones beside those on the patients of a demo.

    Parameters
    ----------
    seed : int
        The workspace's.

    Returns
    -------
    DataFrame
        ``endpoint, metric, horizon_months, knows, expected`` and one column a cohort.
    """
    columns = {"expected": expected_ceilings()}
    for number, hospital in enumerate(HOSPITALS):
        patients = simulate_patients(hospital, np.random.default_rng((seed, number)))
        columns[hospital.cohort] = ceilings(patients)
    rows = [
        {
            "endpoint": ceiling.endpoint,
            "metric": ceiling.metric,
            "horizon_months": ceiling.horizon_months,
            "knows": ceiling.knows,
        }
        for ceiling in columns["expected"]
    ]
    values = {name: [ceiling.value for ceiling in found] for name, found in columns.items()}
    return pd.DataFrame(rows).assign(**values)


def _of_pfs(patients: Patients) -> Iterator[Ceiling]:
    score, age, stage = _hidden(patients, "score", "age", "stage")
    risks: dict[Knows, Floats] = {
        "everything": pfs_log_hazard(score, age, stage),
        "slides": score,
        "covariates": pfs_log_hazard(np.zeros_like(score), age, stage),
    }
    outcome = cast(Survival, patients.outcomes["pfs"])
    for knows, risk in risks.items():
        yield from _of_times("pfs", outcome, knows, dict.fromkeys((*HORIZONS_MONTHS, None), risk))
    measured = patients.table["patient"].isin(patients.rna["patient"]).to_numpy()
    genes = patients.rna[list(SCORE_GENES)].astype(np.float64).sum(axis=1).to_numpy()
    by_genes = dict.fromkeys((*HORIZONS_MONTHS, None), genes)
    yield from _of_times("pfs", outcome.take(measured), "rna", by_genes)


def _of_response(patients: Patients) -> Iterator[Ceiling]:
    (score,) = _hidden(patients, "score")
    value = auroc(cast(Classes, patients.outcomes["response"]), -score).value
    yield Ceiling("response", "auroc", "everything", value)


def _of_grade(patients: Patients) -> Iterator[Ceiling]:
    (score,) = _hidden(patients, "score")
    outcome = cast(Classes, patients.outcomes["grade"])
    areas = [
        auroc(Classes((outcome.label == k).astype(np.int64), ("rest", level)), probability).value
        for k, (level, probability) in enumerate(
            zip(outcome.levels, grade_probabilities(score).T, strict=True)
        )
    ]
    yield Ceiling("grade", "auroc_macro", "everything", float(np.mean(areas)))


def _of_outcome(patients: Patients) -> Iterator[Ceiling]:
    score, age, follow_up = _hidden(patients, "score", "age", "outcome_follow_up")
    outcome = cast(CompetingRisks, patients.outcomes["outcome"])
    # The closing day is known of the dead too: until then they are there, without relapse.
    relapse = Survival(
        np.where(outcome.cause == 2, follow_up, outcome.time_months), outcome.cause == 1
    )
    by_horizon = true_incidence(score, age, np.array(HORIZONS_MONTHS))[0].T
    everything: dict[float | None, Floats] = dict(zip(HORIZONS_MONTHS, by_horizon, strict=True))
    # No one risk is the best for every pair; by simulation that of month 12 is, to 0.001.
    everything[None] = everything[HORIZONS_MONTHS[0]]
    risks: dict[Knows, dict[float | None, Floats]] = {
        "everything": everything,
        "slides": dict.fromkeys((*HORIZONS_MONTHS, None), score),
        "covariates": dict.fromkeys((*HORIZONS_MONTHS, None), -age),  # the old die before
    }
    for knows, risk in risks.items():
        yield from _of_times("outcome", relapse, knows, risk)
    cause = concordance(
        outcome.cause_specific(1), log_hazards(score, age)[0], tau_months=TAU_MONTHS
    )
    yield Ceiling("outcome", "c_index_cause", "everything", cause.value)


def _of_times(
    endpoint: str, outcome: Survival, knows: Knows, risks: dict[float | None, Floats]
) -> Iterator[Ceiling]:
    """C, from the risk under None, and the AUC at each horizon, from the risk by then."""
    c_index = concordance(outcome, risks[None], tau_months=TAU_MONTHS)
    yield Ceiling(endpoint, "c_index", knows, c_index.value)
    for months in HORIZONS_MONTHS:
        area = dynamic_auc(outcome, risks[months], horizon_months=months)
        yield Ceiling(endpoint, "auc", knows, area.value, months)


def _hidden(patients: Patients, *names: str) -> list[Floats]:
    return [patients.hidden[name].to_numpy() for name in names]
