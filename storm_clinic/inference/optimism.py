"""How much a model flatters itself on the patients it was fitted to: Harrell's bootstrap."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from storm_clinic.cohort.outcome import Floats, Ints, Outcome
from storm_clinic.errors import StatisticsError, TrainingError

# A predictor gives one risk a row of a design; fitting sees a design and its outcomes.
Predictor = Callable[[Floats], Floats]
Fit = Callable[[Floats, Outcome], Predictor]
Measure = Callable[[Floats, Outcome], float]

_MAX_LOST = 0.05  # share of resamples that may fail before the rest would mislead


@dataclass(frozen=True, eq=False)
class Optimism:
    """Apparent performance, how much of it is optimism, and what is left.

    Attributes
    ----------
    apparent : float
        On the patients the model was fitted to.
    optimism : float
        Mean over resamples of (on the resample) less (on all patients).
    corrected : float
        ``apparent - optimism``.
    lower, upper : float
        Interval of ``corrected``; describes resampling of these patients.
    training, test : float64 arrays, shape (n_used,)
        Performance of each resample's model on the resample, and on all patients.
    n_lost : int
        Resamples without a model or a number.
    method : str
    """

    apparent: float
    optimism: float
    corrected: float
    lower: float
    upper: float
    training: Floats
    test: Floats
    n_lost: int
    method: str


def optimism(
    fit: Fit,
    measure: Measure,
    design: Floats,
    outcome: Outcome,
    *,
    n: int = 200,
    seed: int = 0,
    draws: Ints | None = None,
    level: float = 0.95,
) -> Optimism:
    """Optimism-corrected performance by refitting on bootstrap resamples.

    All steps that look at outcomes belong inside ``fit``: what is chosen outside is not corrected.

    Parameters
    ----------
    fit : callable
        (design, outcome) to a predictor (design to risks).
    measure : callable
        (risks, outcome) to a number, e.g. the C-index; higher is better.
    design : float64 array, shape (n_patients, n_columns)
        Without gaps.
    outcome : Survival, CompetingRisks or Classes, length n_patients
        What happened to them.
    n : int
        Resamples, at least 2.
    seed : int
        Equal seeds give equal resamples.
    draws : int64 array, shape (n_resamples, n_patients), optional
        The patients drawn in each resample, in place of ``n`` and ``seed``.
    level : float
        Coverage aimed at, between 0 and 1. The interval is the percentile interval of the
        performance of the resamples' models on their own resamples, moved down by the optimism.

    Returns
    -------
    Optimism
        As R's ``rms::validate``.

    Raises
    ------
    StatisticsError
        If the model or the measure fails on all patients, or on more than 5% of the resamples.

    References
    ----------
    Harrell, Lee & Mark, Stat. Med. 15 (1996) 361-387. Noma, Shinozaki, Iba, Teramukai & Furukawa,
    Stat. Med. 40 (2021) 5691-5701 (location-shifted interval).
    """
    _check_level(level)
    rows = _drawn(outcome.n_patients, n, seed) if draws is None else draws
    apparent = required(lambda: measure(fit(design, outcome)(design), outcome))
    found, reasons = [], []
    for drawn in rows:
        try:
            found.append(_performance(fit, measure, design, outcome, drawn))
        except (StatisticsError, TrainingError) as error:
            reasons.append(str(error))
    if len(found) < 2 or len(reasons) > _MAX_LOST * len(rows):
        raise StatisticsError(
            f"{len(reasons)} of {len(rows)} resamples have no model: {(reasons or ['too few'])[0]}",
            fix="There are too few events, or too many covariates, for internal validation.",
        )
    training, test = np.array(found).T
    flattery = float(np.mean(training - test))
    ends = np.quantile(training, [0.5 - level / 2, 0.5 + level / 2]) - flattery
    lost = f" ({len(reasons)} of them without a model)" if reasons else ""
    return Optimism(
        apparent,
        flattery,
        apparent - flattery,
        float(ends[0]),
        float(ends[1]),
        training,
        test,
        len(reasons),
        f"optimism by {len(rows)} bootstrap resamples of patients{lost}, model refitted in each; "
        f"{level:.0%} location-shifted bootstrap interval",
    )


def _performance(
    fit: Fit, measure: Measure, design: Floats, outcome: Outcome, drawn: Ints
) -> tuple[float, float]:
    """Of the model of some patients: on them, and on all."""
    own = outcome.take(drawn)
    predict = fit(design[drawn], own)
    return finite(measure(predict(design[drawn]), own)), finite(measure(predict(design), outcome))


def required(compute: Callable[[], float]) -> float:
    """A number that all else is compared with; `StatisticsError` if there is none."""
    try:
        return finite(compute())
    except TrainingError as error:
        raise StatisticsError(error.problem, where=error.where, fix=error.fix) from error


def finite(value: float) -> float:
    """The value, or the refusal of one that is no number."""
    if not np.isfinite(value):
        raise StatisticsError("the measure gave no number")
    return float(value)


def _check_level(level: float) -> None:
    if not 0 < level < 1:
        raise StatisticsError(f"level {level:g}", fix="Legal are values between 0 and 1.")


def _drawn(n_patients: int, n: int, seed: int) -> NDArray[np.int64]:
    if n < 2:
        raise StatisticsError(f"{n} resamples", fix="Ask for at least two.")
    rng = np.random.default_rng(seed)
    return rng.integers(0, n_patients, size=(n, n_patients))
