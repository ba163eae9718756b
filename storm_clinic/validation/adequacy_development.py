"""Whether a development cohort carries the parameters of its clinical model (Riley's criteria)."""

from __future__ import annotations

import math
from collections.abc import Sequence
from itertools import combinations

import numpy as np

from storm_clinic.cohort.outcome import Classes
from storm_clinic.errors import StatisticsError
from storm_clinic.inference.sample_size import SampleSize, Z
from storm_clinic.inference.sample_size_development import (
    binary_development,
    classes_development,
    expected_shrinkage,
    greatest_r2,
    greatest_r2_survival,
    survival_development,
)
from storm_clinic.inference.sample_size_survival import event_share
from storm_clinic.metrics.inputs import Timed
from storm_clinic.validation.analyses import Adequacy, Requirement
from storm_clinic.validation.evaluation_data import EvaluationData

# What Riley et al. (2020) advise where nothing is known of the model's R²; never this study's own.
_NAGELKERKE = 0.15
_METHOD = (
    "Riley et al. 2019, 2020 (several classes: Pate et al. 2023). Assumed: Nagelkerke's R² of "
    f"{_NAGELKERKE:g}, as advised where none is known; not estimated here, which would be "
    "circular. Observed: patients, events, follow-up."
)
_LEARNED = (
    "no formula says how many patients a model needs that learns its representation from images; "
    "its events are given instead, and the learning curve shows whether more would help"
)


def development_adequacy(
    data: EvaluationData, n_parameters: int | None, learned: Sequence[str]
) -> Adequacy:
    """Criteria for the model whose parameters are counted, and the events of learned ones."""
    requirements, sentence, note = _counted(data, n_parameters)
    requirements += [_of_learned(data, name) for name in learned]
    return Adequacy(
        cohort=data.cohort,
        stage="development",
        requirements=tuple(requirements),
        sentence=sentence,
        method=_METHOD,
        note=note,
    )


def _counted(data: EvaluationData, n_parameters: int | None) -> tuple[list[Requirement], str, str]:
    n, events = data.outcome.n_patients, data.outcome.n_events
    start = f"{events} events among {n} patients"
    if n_parameters is None:
        note = "the parameters of the clinical model are not known, or there is none"
        return [], f"{start} were there for development; {note}.", note
    try:
        size, r2 = _needed(data, n_parameters)
    except StatisticsError as problem:
        return [], f"{start} do not say what {n_parameters} parameters need.", str(problem)
    shrinkage = expected_shrinkage(n, n_parameters, r2) if r2 is not None else None
    reached = {"overall risk": _margin(data)}
    if shrinkage is not None:
        reached["shrinkage"] = f"expected shrinkage {shrinkage:.2f}"
        reached["optimism"] = _optimism(shrinkage)
    requirements = [
        Requirement(
            criterion=criterion.name,
            needed_patients=criterion.n_patients,
            needed_events=math.ceil(criterion.n_patients * size.event_share),
            available_patients=n,
            available_events=events,
            target=f"{criterion.target}, with {n_parameters} parameters",
            reached=reached.get(criterion.name, f"{n} patients"),
            enough=criterion.n_patients <= n,
        )
        for criterion in size.criteria
    ]
    verdict = "enough" if size.n_patients <= n else "not enough"
    sentence = (
        f"{start} are {verdict} for {n_parameters} parameters of the clinical model: "
        f"{size.n_patients} patients with {math.ceil(size.n_events)} events would be needed if its "
        f"R² (Nagelkerke) is {_NAGELKERKE:g}."
    )
    return requirements, sentence, ""


def _needed(data: EvaluationData, n_parameters: int) -> tuple[SampleSize, float | None]:
    """The size needed, and the R² (Cox-Snell) that was assumed; None for several classes."""
    outcome = data.outcome
    if not isinstance(outcome, Classes):
        rate, follow_up, horizon = _follow_up(data, outcome)
        r2 = _NAGELKERKE * greatest_r2_survival(rate * follow_up)
        size = survival_development(
            n_parameters, r2, rate=rate, mean_follow_up=follow_up, horizon=horizon
        )
        return size, r2
    if len(outcome.levels) == 2:
        share = event_share(outcome)
        r2 = _NAGELKERKE * greatest_r2(share)
        return binary_development(n_parameters, r2, share), r2
    counts = np.bincount(outcome.label, minlength=len(outcome.levels))
    shares = counts / counts.sum()
    pairs = {
        (a, b): _NAGELKERKE * greatest_r2(shares[b] / (shares[a] + shares[b]))
        for a, b in combinations(range(len(shares)), 2)
        if shares[a] + shares[b] > 0
    }
    return classes_development(n_parameters, list(shares), pairs, _NAGELKERKE), None


def _follow_up(data: EvaluationData, outcome: Timed) -> tuple[float, float, float]:
    """Events a month, mean months of follow-up, and the last horizon (else the mean follow-up)."""
    entry = outcome.entry_months
    months = outcome.time_months if entry is None else outcome.time_months - entry
    mean = float(months.mean())
    horizons = data.endpoint.horizons_months
    horizon = horizons[-1] if horizons else data.endpoint.tau_months or mean
    return outcome.n_events / float(months.sum()), mean, horizon


def _optimism(shrinkage: float) -> str:
    if shrinkage <= 0:
        return "apparent R² says nothing"
    return f"apparent R² {_NAGELKERKE * (1 / shrinkage - 1):.2f} above the true one"


def _margin(data: EvaluationData) -> str:
    """Half width of the average risk that these patients give."""
    outcome = data.outcome
    if isinstance(outcome, Classes):
        counts = np.bincount(outcome.label, minlength=len(outcome.levels)) / outcome.n_patients
        spread = max(share * (1 - share) for share in counts)
        return f"average risk known to ±{Z * math.sqrt(spread / outcome.n_patients):.3f}"
    rate, mean, horizon = _follow_up(data, outcome)
    reach = Z * math.sqrt(rate / (mean * outcome.n_patients))
    left = math.exp(-rate * horizon)
    # The lower end lies further off, but no risk is below 0.
    margin = max(
        min(left * math.expm1(reach * horizon), 1 - left), -left * math.expm1(-reach * horizon)
    )
    return f"average risk known to ±{margin:.3f}"


def _of_learned(data: EvaluationData, name: str) -> Requirement:
    n, events = data.outcome.n_patients, data.outcome.n_events
    return Requirement(
        criterion=f"representation learned by {name}",
        available_patients=n,
        available_events=events,
        target="none: its parameters cannot be counted like those of a regression",
        reached=f"{events} events among {n} patients",
        note=_LEARNED,
    )
