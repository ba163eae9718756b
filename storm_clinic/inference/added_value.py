"""What a risk adds to a clinical model: ratio per SD, likelihood ratio test, adequacy index."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike

from storm_clinic.cohort.outcome import Floats
from storm_clinic.errors import StatisticsError
from storm_clinic.inference.fitted import ChiSquared, Fitted

FitModel = Callable[[Floats, Sequence[str]], Fitted]

TWO_STEPS = (
    "the risk comes from cross-validation of these patients: errors and p treat it as given and "
    "leave out that the model was trained on them"
)


@dataclass(frozen=True, eq=False)
class AddedValue:
    """A clinical model with and without a risk, on the same patients.

    Attributes
    ----------
    clinical : Fitted
        Without the risk.
    both : Fitted
        With it; the risk is the first column.
    likelihood_ratio : ChiSquared
        Twice the gain in log-likelihood by the risk. In Fine and Gray's model, whose likelihood is
        a pseudo-likelihood, it has no chi-squared distribution: take ``wald``.
    wald : ChiSquared
        Of the risk's coefficient, by the covariance of ``both``.
    adequacy : float or None
        Likelihood ratio of the clinical model over that of both, 0 to 1: the share of the
        explained that the clinical model explains alone. None where both explain nothing.
    """

    clinical: Fitted
    both: Fitted
    likelihood_ratio: ChiSquared
    wald: ChiSquared
    adequacy: float | None

    @property
    def test(self) -> ChiSquared:
        """The test that holds for the kind of model."""
        return self.wald if self.both.kind == "fine-gray" else self.likelihood_ratio

    @property
    def test_name(self) -> str:
        """What that test is called."""
        robust = self.both.kind == "fine-gray"
        return "Wald test of added value" if robust else "likelihood ratio test of added value"


def per_sd(linear_predictor: ArrayLike) -> tuple[Floats, float]:
    """A linear predictor in units of its standard deviation around 0, and that deviation.

    Parameters
    ----------
    linear_predictor : float array, shape (n_patients,)
        E.g. ``complementary_log_log`` of a probability (time to event) or ``log_odds`` (classes):
        the scales on which the regressions are linear.

    Returns
    -------
    float64 array, shape (n_patients,)
    float
        Standard deviation with n - 1, in the units given.

    Raises
    ------
    StatisticsError
        If a value is missing or infinite, or all are the same.
    """
    values = np.asarray(linear_predictor, dtype=np.float64)
    if values.ndim != 1 or len(values) < 2 or not np.isfinite(values).all():
        raise StatisticsError("risks must be one finite number a patient, of two or more patients")
    sd = float(values.std(ddof=1))
    if sd <= 1e-12 * float(np.abs(values).max()):
        raise StatisticsError(f"the risk is the same in all {len(values)} patients")
    return np.asarray((values - values.mean()) / sd), sd


def added_value(
    risk: ArrayLike,
    clinical: ArrayLike,
    fit: FitModel,
    *,
    risk_name: str = "risk",
    clinical_names: Sequence[str],
) -> AddedValue:
    """Compare a clinical model with the same model and a risk.

    Parameters
    ----------
    risk : float array, shape (n_patients,)
        On the scale of a linear predictor, e.g. from `per_sd`. Where it was fitted to other parts
        of these patients (cross-validation), errors ignore that: say ``TWO_STEPS``.
    clinical : float array, shape (n_patients, q)
        The clinical model's linear predictor (one column), or the covariates themselves.
    fit : callable
        Design and names to a fitted model: ``lambda d, n: fit_cox(d, outcome, names=n)``.
    risk_name : str
        Of the risk's coefficient.
    clinical_names : sequence of str, length q
        Of the others.

    Raises
    ------
    StatisticsError
        As the model itself: no events, constant or dependent columns (a risk that is the clinical
        model's), separation.

    References
    ----------
    Harrell, Regression Modeling Strategies (2015), section 9.8.4 (adequacy index).
    """
    columns = np.asarray(clinical, dtype=np.float64)
    with_risk = np.column_stack([np.asarray(risk, dtype=np.float64), columns])
    both = fit(with_risk, [risk_name, *clinical_names])
    without = fit(columns, list(clinical_names))
    gain = max(2 * (both.log_likelihood - without.log_likelihood), 0.0)
    whole = both.likelihood_ratio.statistic
    return AddedValue(
        clinical=without,
        both=both,
        likelihood_ratio=ChiSquared(gain, 1),
        wald=both.wald_of([0]),
        adequacy=min(without.likelihood_ratio.statistic / whole, 1.0) if whole > 0 else None,
    )
