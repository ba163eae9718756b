"""What a risk adds to what the clinic knows: likelihood ratio, adequacy, explained variation."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from storm_clinic.errors import StatisticsError
from storm_clinic.inference.fitted import ChiSquared, Fitted


@dataclass(frozen=True, eq=False)
class AddedValue:
    """A regression against the same without some of its terms.

    Attributes
    ----------
    test : ChiSquared
        That the added terms have no effect.
    method : str
        "likelihood ratio", or "robust Wald" in Fine and Gray's model, whose pseudo-likelihood
        gives no ratio test.
    adequacy : float or None
        Likelihood ratio of the smaller model over that of the larger: the share of what both know
        that the smaller knows alone. None where the larger knows nothing, or there is no ratio.
    explained_smaller, explained : float or None
        Explained variation of the two models, from their likelihood ratios.
    """

    test: ChiSquared
    method: str
    adequacy: float | None
    explained_smaller: float | None
    explained: float | None


def added_value(larger: Fitted, smaller: Fitted) -> AddedValue:
    """Compare nested regressions of the same patients.

    Parameters
    ----------
    larger : Fitted
        E.g. clinical covariates and the risk.
    smaller : Fitted
        E.g. clinical covariates alone.

    Returns
    -------
    AddedValue
        Its explained variation is O'Quigley's explained randomness for Cox models,
        ``1 - exp(-LR / n_events)``, and Nagelkerke's R2 for logistic ones.

    Raises
    ------
    StatisticsError
        If the models are not nested, or were fitted to different patients.

    Notes
    -----
    Where the risk comes from a model that was trained on the same patients, also in other folds
    of a cross-validation, the test ignores that training and its p is too small.

    References
    ----------
    Harrell, Regression Modeling Strategies (2015), section 9.8.4 (adequacy). O'Quigley, Xu &
    Stare, Stat. Med. 24 (2005) 479-489. Nagelkerke, Biometrika 78 (1991) 691-692.
    """
    added = [at for at, name in enumerate(larger.names) if name not in smaller.names]
    if larger.kind != smaller.kind or len(added) != len(larger.names) - len(smaller.names):
        raise StatisticsError("the smaller regression is not part of the larger one")
    if not added:
        raise StatisticsError("the larger regression has no term that the smaller one lacks")
    same = (larger.n_patients, larger.n_events) == (smaller.n_patients, smaller.n_events)
    if not same or not np.isclose(larger.null_log_likelihood, smaller.null_log_likelihood):
        raise StatisticsError(
            "added value compares two models on the same patients, and these were fitted to others",
            fix="Leave out whoever lacks a covariate of the larger model from both.",
        )
    if larger.kind == "fine-gray":
        return AddedValue(larger.wald_of(added), "robust Wald", None, None, None)
    gain = max(2 * (larger.log_likelihood - smaller.log_likelihood), 0.0)
    both, alone = larger.likelihood_ratio.statistic, smaller.likelihood_ratio.statistic
    return AddedValue(
        ChiSquared(gain, len(added)),
        "likelihood ratio",
        min(alone / both, 1.0) if both > 0 else None,
        _explained(smaller),
        _explained(larger),
    )


def _explained(fit: Fitted) -> float:
    ratio = fit.likelihood_ratio.statistic
    if fit.kind == "cox":
        return float(-np.expm1(-ratio / fit.n_events))
    most = -np.expm1(2 * fit.null_log_likelihood / fit.n_patients)
    return float(-np.expm1(-ratio / fit.n_patients) / most)
