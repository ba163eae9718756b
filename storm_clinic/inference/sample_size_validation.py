"""How precisely so many patients show C, observed/expected, slope and net benefit; and back.

For a binary outcome all are closed forms. Each ``*_error`` is the standard error that so many
patients give, each ``*_size`` the fewest patients for an interval of a given width; one is the
converse of the other.

References
----------
Riley et al., Stat. Med. 40 (2021) 4230-4251. Newcombe, Stat. Med. 25 (2006) 559-573 (C). Marsh et
al., Biometrics 76 (2020) 843-852 (net benefit).
"""

from __future__ import annotations

import math

import numpy as np
from numpy.typing import ArrayLike

from storm_clinic.cohort.outcome import Floats
from storm_clinic.errors import StatisticsError
from storm_clinic.inference.sample_size import (
    Criterion,
    SampleSize,
    Z,
    require_positive,
    require_share,
)


def c_error(c: float, n_patients: float, event_share: float) -> float:
    """Standard error of C (AUROC), Newcombe's method 4.

    Parameters
    ----------
    c : float
        Expected C, between 0 and 1.
    n_patients : float
        Patients to come.
    event_share : float
        Share of patients with the event, between 0 and 1.
    """
    c, share = require_share(c, "a C of"), require_share(event_share, "a share of events of")
    n = require_positive(n_patients, "a number of patients of")
    pairs = (1 - c) / (2 - c) + c / (1 + c)
    return math.sqrt(c * (1 - c) * (1 + (n / 2 - 1) * pairs) / (n**2 * share * (1 - share)))


def c_size(c: float, event_share: float, width: float) -> int:
    """Patients for an interval of C of this width."""
    c, share = require_share(c, "a C of"), require_share(event_share, "a share of events of")
    variance = (require_positive(width, "a width of") / (2 * Z)) ** 2 * share * (1 - share)
    pairs, spread = (1 - c) / (2 - c) + c / (1 + c), c * (1 - c)
    # variance n^2 = spread (1 - pairs + n pairs / 2), solved for n.
    half, rest = spread * pairs / 2, spread * (1 - pairs)
    return math.ceil((half + math.sqrt(half**2 + 4 * variance * rest)) / (2 * variance))


def observed_expected_error(n_patients: float, event_share: float) -> float:
    """Standard error of log(observed/expected) of a binary outcome."""
    share = require_share(event_share, "a share of events of")
    return math.sqrt((1 - share) / (require_positive(n_patients, "patients of") * share))


def observed_expected_size(event_share: float, width: float, *, ratio: float = 1.0) -> int:
    """Patients for an interval of observed/expected of this width, around ``ratio``."""
    share = require_share(event_share, "a share of events of")
    error = log_ratio_error(width, ratio)
    return math.ceil((1 - share) / (share * error**2))


def log_ratio_error(width: float, ratio: float = 1.0) -> float:
    """Standard error on the log scale that gives an interval of this width around a ratio."""
    width = require_positive(width, "a width of")
    return math.asinh(width / (2 * require_positive(ratio, "a ratio of"))) / Z


def log_ratio_width(error: float, ratio: float = 1.0) -> float:
    """Width of the interval around a ratio with this standard error on the log scale."""
    return 2 * ratio * math.sinh(Z * error)


def logistic_slope_error(linear_predictor: ArrayLike, n_patients: float) -> float:
    """Standard error of the calibration slope of a binary outcome, if predictions are right.

    Parameters
    ----------
    linear_predictor : float array, shape (n,)
        Log-odds of predicted probabilities, of patients like those to come: observed predictions,
        or draws from their expected distribution. What is assumed is that slope and intercept are
        1 and 0.
    n_patients : float
        Patients to come.
    """
    return math.sqrt(
        _slope_variance(linear_predictor) / require_positive(n_patients, "patients of")
    )


def logistic_slope_size(linear_predictor: ArrayLike, width: float) -> int:
    """Patients for an interval of the calibration slope of this width."""
    error = require_positive(width, "a width of") / (2 * Z)
    return math.ceil(_slope_variance(linear_predictor) / error**2)


def net_benefit_error(
    sensitivity: float, specificity: float, threshold: float, n_patients: float, event_share: float
) -> float:
    """Standard error of the standardised net benefit (net benefit over the share of events)."""
    variance = _net_benefit_variance(sensitivity, specificity, threshold, event_share)
    return math.sqrt(variance / require_positive(n_patients, "a number of patients of"))


def net_benefit_size(
    sensitivity: float, specificity: float, threshold: float, event_share: float, width: float
) -> int:
    """Patients for an interval of the standardised net benefit of this width."""
    error = require_positive(width, "a width of") / (2 * Z)
    variance = _net_benefit_variance(sensitivity, specificity, threshold, event_share)
    return math.ceil(variance / error**2)


def binary_validation(
    event_share: float,
    c: float,
    linear_predictor: ArrayLike,
    *,
    c_width: float = 0.1,
    ratio_width: float = 0.2,
    slope_width: float = 0.2,
) -> SampleSize:
    """Patients needed to validate a model of a binary outcome: the largest of three criteria.

    Parameters
    ----------
    event_share : float
        Expected share of events.
    c : float
        Expected C.
    linear_predictor : float array, shape (n,)
        As in `logistic_slope_error`.
    c_width, ratio_width, slope_width : float
        Widths of the 95% intervals of C, observed/expected and slope that are aimed at.
    """
    return SampleSize(
        (
            Criterion(
                "observed/expected",
                observed_expected_size(event_share, ratio_width),
                f"interval of observed/expected {ratio_width:g} wide",
            ),
            Criterion(
                "calibration slope",
                logistic_slope_size(linear_predictor, slope_width),
                f"interval of the slope {slope_width:g} wide",
            ),
            Criterion("C", c_size(c, event_share, c_width), f"interval of C {c_width:g} wide"),
        ),
        require_share(event_share, "a share of events of"),
    )


def expected_c(linear_predictor: ArrayLike) -> float:
    """C (AUROC) that predicted log-odds promise, if they are right; no outcome is looked at."""
    x = np.sort(as_predictor(linear_predictor))
    p = 0.5 * (1 + np.tanh(x / 2))
    level, tie = np.unique(x, return_inverse=True)
    case = np.bincount(tie, weights=p, minlength=len(level))
    control = np.bincount(tie, weights=1 - p, minlength=len(level))
    below = np.cumsum(control) - control / 2
    # Tied patients are an honest half; a patient is never paired with itself.
    return float((case @ below - (p * (1 - p)).sum() / 2) / (p.sum() * (1 - p).sum() - p @ (1 - p)))


def as_predictor(linear_predictor: ArrayLike) -> Floats:
    """Finite predictions that vary, as float64.

    Raises
    ------
    StatisticsError
        If one is missing or infinite, or all are the same.
    """
    x = np.asarray(linear_predictor, dtype=np.float64).ravel()
    if not len(x) or not np.isfinite(x).all():
        raise StatisticsError("predictions are missing or infinite", fix="Finite ones are needed.")
    if x.std() == 0:
        raise StatisticsError("every patient has the same prediction: it has no slope")
    return x


def _slope_variance(linear_predictor: ArrayLike) -> float:
    """Of the slope, for one patient: from the information of a logistic line at (0, 1)."""
    x = as_predictor(linear_predictor)
    v = 0.25 / np.cosh(x / 2) ** 2
    i0, i1, i2 = v.mean(), (v * x).mean(), (v * x**2).mean()
    return float(i0 / (i0 * i2 - i1**2))


def _net_benefit_variance(
    sensitivity: float, specificity: float, threshold: float, event_share: float
) -> float:
    """Of the standardised net benefit, for one patient."""
    share = require_share(event_share, "a share of events of")
    odds = require_share(threshold, "a threshold of") / (1 - threshold)
    for name, value in (("sensitivity", sensitivity), ("specificity", specificity)):
        if not 0 <= value <= 1:
            raise StatisticsError(f"a {name} of {value:g}", fix="Legal are values from 0 to 1.")
    w = (1 - share) / share * odds
    return (
        sensitivity * (1 - sensitivity) / share
        + w**2 * specificity * (1 - specificity) / (1 - share)
        + w**2 * (1 - specificity) ** 2 / (share * (1 - share))
    )
