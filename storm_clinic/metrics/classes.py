"""More than two classes: one-vs-rest ranking, and the error of the whole prediction."""

from __future__ import annotations

import numpy as np
from numpy.typing import ArrayLike

from storm_clinic.cohort.outcome import Classes, Floats, Ints
from storm_clinic.errors import NoComparablePairs, StatisticsError
from storm_clinic.metrics.ranked_cases import RankedCases, area, area_slopes
from storm_clinic.metrics.resampling import label_codes
from storm_clinic.metrics.uncertainty import Statistic

_SUM_TOLERANCE = 0.01  # predictions from elsewhere are rounded


def one_against_rest(outcome: Classes, level: str) -> Classes:
    """The same patients in two classes: this level is the event, all others are not."""
    at = outcome.levels.index(level)
    return Classes((outcome.label == at).astype(np.int64), (f"not {level}", level))


def macro_auroc(
    outcome: Classes, probabilities: ArrayLike, *, within: ArrayLike | None = None
) -> Statistic:
    """Plain mean over the classes of the AUROC of each against the rest.

    Every class counts the same, however rare; as scikit-learn's ``roc_auc_score`` with
    ``multi_class="ovr", average="macro"``. Of two classes it is the AUROC.

    Parameters
    ----------
    outcome : Classes, length n_patients
        Two classes or more.
    probabilities : float array, shape (n_patients, n_levels)
        In the order of the levels; rows sum to 1.
    within : array, shape (n_patients,), optional
        Compare patients of one fold only; pairs of all folds are pooled, class by class.

    Raises
    ------
    NoComparablePairs
        If a class does not occur, or no fold has it beside another one.
    StatisticsError
        If the probabilities are none.
    """
    p = as_probabilities(probabilities, outcome)
    n = outcome.n_patients
    strata = np.zeros(n, np.int64) if within is None else label_codes(within, n, "folds")
    parts = []
    for at, level in enumerate(outcome.levels):
        case = outcome.label == at
        both = np.intersect1d(strata[case], strata[~case])
        if not len(both):
            raise NoComparablePairs(
                f"{int(case.sum())} of {n} patients are {level!r}, and no fold has such a patient "
                "beside another"
            )
        parts.append([RankedCases(p[:, at], case, ~case, strata == code) for code in both])

    def under(weights: Floats) -> Floats:
        areas = [area(ranked, weights, weights) for ranked in parts]
        return np.asarray(np.mean(areas, axis=0), dtype=np.float64)

    ones = np.ones(n)
    influence = np.mean([np.add(*area_slopes(ranked, ones, ones)) for ranked in parts], axis=0)
    pooled = ", pairs within folds" if within is not None else ""
    method = f"macro AUROC over {len(outcome.levels)} classes, each against rest{pooled}"
    return Statistic.of(
        outcome, under, method, influence=influence, scale="logit", degrees=_rarest(outcome) - 1
    )


def multiclass_brier(outcome: Classes, probabilities: ArrayLike) -> Statistic:
    """Brier's score: squared distance from the class that was, summed over classes; 0 to 2.

    Of two classes it is twice `storm_clinic.metrics.overall.brier`. Parameters and errors as
    `macro_auroc`, but that a class may be absent.

    References
    ----------
    Brier, Mon. Weather Rev. 78 (1950) 1-3.
    """
    error = _squared(outcome, probabilities)
    return _mean(outcome, error, f"Brier score, summed over {len(outcome.levels)} classes")


def multiclass_brier_scaled(outcome: Classes, probabilities: ArrayLike) -> Statistic:
    """1 less that Brier score over that of the shares of the classes, given to everybody.

    Parameters and errors as `multiclass_brier`.
    """
    error, seen = _squared(outcome, probabilities), _indicator(outcome)

    def under(weights: Floats) -> Floats:
        share = weights @ seen / weights.sum(axis=1, keepdims=True)
        average = 1 - (share**2).sum(axis=1)
        with np.errstate(invalid="ignore", divide="ignore"):
            scaled = 1 - weights @ error / weights.sum(axis=1) / average
        return np.where(average > 1e-12, scaled, np.nan)

    share = seen.mean(axis=0)
    average = 1 - share @ share
    if not average > 1e-12:
        raise StatisticsError("every patient is of one class: nothing is left to predict")
    moved = -2 * (seen - share) @ share  # the average's Brier score, by each patient
    influence = ((error.mean() - error) / average + error.mean() / average**2 * moved) / len(error)
    label = f"scaled Brier score over {len(outcome.levels)} classes"
    return Statistic.of(outcome, under, label, influence=influence, scale="complement")


def log_score(outcome: Classes, probabilities: ArrayLike) -> Statistic:
    """Mean of -log(probability of the class that was), natural logarithm; lower is better.

    Parameters and errors as `multiclass_brier`.

    Raises
    ------
    StatisticsError
        If a patient's own class was given probability 0: the score is infinite.

    References
    ----------
    Good, J. R. Stat. Soc. B 14 (1952) 107-114.
    """
    p = as_probabilities(probabilities, outcome)
    own = p[np.arange(len(p)), outcome.label]
    if (own == 0).any():
        raise StatisticsError(
            f"{int((own == 0).sum())} patients are of a class that was given probability 0: "
            "the log score is infinite",
            fix="A prediction of exactly 0 claims certainty; no log score can be given.",
        )
    return _mean(outcome, -np.log(own), f"log score over {len(outcome.levels)} classes")


def balanced_accuracy(outcome: Classes, probabilities: ArrayLike) -> Statistic:
    """Mean over the classes of the share of their patients for whom they were the likeliest.

    Chance is 1 over the number of classes. Parameters and errors as `macro_auroc`; of equal
    probabilities the earlier level counts.
    """
    right = (likeliest(outcome, probabilities) == outcome.label).astype(np.float64)
    seen = _indicator(outcome)
    absent = [level for level, n in zip(outcome.levels, seen.sum(axis=0), strict=True) if not n]
    if absent:
        raise StatisticsError(f"no patient is {absent[0]!r}: its share found is not defined")

    def under(weights: Floats) -> Floats:
        found, of = (weights * right) @ seen, weights @ seen
        with np.errstate(invalid="ignore"):
            return np.asarray((found / of).mean(axis=1), dtype=np.float64)

    number = seen.sum(axis=0)
    influence = ((right[:, None] - right @ seen / number) * seen / number).mean(axis=1)
    label = f"balanced accuracy of the likeliest of {len(outcome.levels)} classes"
    return Statistic.of(
        outcome, under, label, influence=influence, scale="logit", degrees=_rarest(outcome) - 1
    )


def likeliest(outcome: Classes, probabilities: ArrayLike) -> Ints:
    """Position of each patient's likeliest level; the earlier one of equals."""
    at = as_probabilities(probabilities, outcome).argmax(axis=1)
    return np.asarray(at, dtype=np.int64)


def as_probabilities(probabilities: ArrayLike, outcome: Classes) -> Floats:
    """One probability a patient and class, as float64; `StatisticsError` where they are none."""
    p = np.asarray(probabilities, dtype=np.float64)
    if p.shape != (outcome.n_patients, len(outcome.levels)):
        raise StatisticsError(
            f"probabilities of shape {p.shape} for {outcome.n_patients} patients and "
            f"{len(outcome.levels)} classes"
        )
    bad = ~(np.isfinite(p) & (p >= 0) & (p <= 1)).all(axis=1)
    bad |= np.abs(p.sum(axis=1) - 1) > _SUM_TOLERANCE
    if bad.any():
        row = int(np.flatnonzero(bad)[0])
        raise StatisticsError(
            f"{int(bad.sum())} patients have probabilities that are missing, outside [0, 1] or do "
            f"not sum to 1, the first in row {row} ({', '.join(f'{x:g}' for x in p[row])})"
        )
    return p


def _rarest(outcome: Classes) -> int:
    """Patients of the rarest class."""
    return int(np.bincount(outcome.label, minlength=len(outcome.levels)).min())


def _indicator(outcome: Classes) -> Floats:
    return np.asarray(outcome.label[:, None] == np.arange(len(outcome.levels)), dtype=np.float64)


def _squared(outcome: Classes, probabilities: ArrayLike) -> Floats:
    distance = as_probabilities(probabilities, outcome) - _indicator(outcome)
    return np.asarray((distance**2).sum(axis=1), dtype=np.float64)


def _mean(outcome: Classes, each: Floats, method: str) -> Statistic:
    return Statistic.of(
        outcome,
        lambda weights: weights @ each / weights.sum(axis=1),
        method,
        influence=(each - each.mean()) / len(each),
        scale="log",
    )
