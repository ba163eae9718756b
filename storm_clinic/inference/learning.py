"""Would more patients help? Held-out performance of models trained on part of the patients."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np

from storm_clinic.cohort.outcome import Floats, Ints, Outcome, stratum
from storm_clinic.errors import StatisticsError, TrainingError
from storm_clinic.inference.optimism import Fit, finite

# Of risks, outcomes and the fold each patient was held out in: risks of one fold share a scale.
HeldOutMeasure = Callable[[Floats, Outcome, Ints], float]


@dataclass(frozen=True, eq=False)
class LearningStep:
    """Performance of models trained on one share of the training patients.

    Attributes
    ----------
    fraction : float
    n_patients, n_events : int
        Mean number trained on, rounded.
    values : float64 array, shape (n_used,)
        Held-out performance, one a repeat; empty where no repeat gave a number.
    n_lost : int
        Repeats in which a fold had no model.
    reason : str
        Why the first was lost.
    """

    fraction: float
    n_patients: int
    n_events: int
    values: Floats
    n_lost: int
    reason: str


def learning_curve(
    fit: Fit,
    measure: HeldOutMeasure,
    design: Floats,
    outcome: Outcome,
    *,
    fractions: Sequence[float] = (0.25, 0.5, 0.75, 1.0),
    folds: int = 5,
    repeats: int = 10,
    seed: int = 0,
) -> tuple[LearningStep, ...]:
    """Cross-validated performance of models that see a part of each training set.

    Folds and parts are balanced by event (cause, class); in one repeat smaller parts lie inside
    larger ones, and all fractions are judged on the same held-out patients.

    Parameters
    ----------
    fit : callable
        As in `storm_clinic.inference.optimism.optimism`.
    measure : callable
        (held-out risks of all patients, outcome, fold) to a number.
    design : float64 array, shape (n_patients, n_columns)
        Without gaps.
    outcome : Survival, CompetingRisks or Classes, length n_patients
        What happened to them.
    fractions : sequence of float
        Above 0 and at most 1.
    folds : int
        From 2 to the number of patients.
    repeats : int
        At least 1.
    seed : int
        Equal seeds give equal folds.

    Raises
    ------
    StatisticsError
        If a setting is out of range.

    References
    ----------
    Dobbin & Song, Biostatistics 14 (2013) 639-652. Christodoulou et al., Diagn. Progn. Res. 5
    (2021) 6.
    """
    if not fractions or min(fractions) <= 0 or max(fractions) > 1:
        raise StatisticsError(f"fractions {list(fractions)}", fix="Legal are values in (0, 1].")
    if not 2 <= folds <= outcome.n_patients or repeats < 1:
        raise StatisticsError(
            f"{folds} folds and {repeats} repeats of {outcome.n_patients} patients",
            fix="Legal are 2 folds to one a patient, and at least 1 repeat.",
        )
    rng = np.random.default_rng(seed)
    orders = [
        (balanced_folds(outcome, folds, rng), balanced_order(outcome, rng)) for _ in range(repeats)
    ]
    return tuple(_step(fit, measure, design, outcome, fraction, orders) for fraction in fractions)


def balanced_order(outcome: Outcome, rng: np.random.Generator) -> Ints:
    """All patients in random order, such that every stretch has its share of events."""
    labels = stratum(outcome)
    shuffled = rng.permutation(outcome.n_patients)
    place = np.empty(outcome.n_patients)
    for code in np.unique(labels):
        members = shuffled[labels[shuffled] == code]
        place[members] = (np.arange(len(members)) + rng.random()) / len(members)
    return np.asarray(np.argsort(place, kind="stable"), dtype=np.int64)


def balanced_folds(outcome: Outcome, folds: int, rng: np.random.Generator) -> Ints:
    """Fold of each patient, each with its share of events."""
    fold = np.empty(outcome.n_patients, dtype=np.int64)
    fold[balanced_order(outcome, rng)] = np.arange(outcome.n_patients) * folds // outcome.n_patients
    return fold


def held_out(
    fit: Fit, design: Floats, outcome: Outcome, fold: Ints, order: Ints, fraction: float = 1.0
) -> tuple[Floats, Floats, Floats]:
    """Risks of every patient by a model that did not see him, and the sizes trained on.

    Returns
    -------
    float64 array, shape (n_patients,)
    float64 arrays, shape (n_folds,)
        Patients and events each model was trained on: the first ``fraction`` of the others in
        ``order``.
    """
    risk = np.empty(outcome.n_patients)
    patients, events = [], []
    for code in np.unique(fold):
        others = order[fold[order] != code]
        part = others[: max(1, round(fraction * len(others)))]
        own = outcome.take(part)
        tested = fold == code
        risk[tested] = fit(design[part], own)(design[tested])
        patients.append(own.n_patients)
        events.append(own.n_events)
    return risk, np.array(patients, dtype=np.float64), np.array(events, dtype=np.float64)


def _step(
    fit: Fit,
    measure: HeldOutMeasure,
    design: Floats,
    outcome: Outcome,
    fraction: float,
    orders: Sequence[tuple[Ints, Ints]],
) -> LearningStep:
    values, patients, events, reasons = [], [], [], []
    for fold, order in orders:
        try:
            risk, n, e = held_out(fit, design, outcome, fold, order, fraction)
            values.append(finite(measure(risk, outcome, fold)))
        except (StatisticsError, TrainingError) as error:
            reasons.append(str(error))
            continue
        patients.append(n.mean())
        events.append(e.mean())
    folds = int(orders[0][0].max()) + 1
    planned = fraction * (folds - 1) / folds
    return LearningStep(
        fraction,
        round(float(np.mean(patients)) if patients else planned * outcome.n_patients),
        round(float(np.mean(events)) if events else planned * outcome.n_events),
        np.array(values, dtype=np.float64),
        len(reasons),
        reasons[0] if reasons else "",
    )
