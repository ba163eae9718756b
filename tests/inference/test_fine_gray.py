"""Fine and Gray's regression equals cmprsk's crr."""

from __future__ import annotations

import numpy as np
import pytest

from storm_clinic.cohort.outcome import CompetingRisks, Survival
from storm_clinic.errors import StatisticsError
from storm_clinic.inference.cox import fit_cox
from storm_clinic.inference.fine_gray import fit_fine_gray


def fit(case):
    return fit_fine_gray(case.design, case.competing, names=case.names)


@pytest.mark.regression("fine_gray")
def test_coefficients_robust_errors_and_likelihood_equal_crr(regression):
    found, scale = fit(regression.case), np.abs(regression.r("fine_gray", "var")).max()
    np.testing.assert_allclose(found.coefficients, regression.r("fine_gray", "coef"), rtol=1e-6)
    np.testing.assert_allclose(
        found.covariance, regression.r("fine_gray", "var"), rtol=1e-6, atol=1e-7 * scale
    )
    null, top = regression.r("fine_gray", "loglik")
    assert found.null_log_likelihood == pytest.approx(null, rel=1e-10)
    assert found.log_likelihood == pytest.approx(top, rel=1e-10)


def test_without_ties_and_other_events_it_is_a_cox_model():
    rng = np.random.default_rng(2)
    x, time = rng.normal(size=(300, 2)), rng.exponential(size=300)
    event = rng.random(300) < 0.6
    # One other event after everything else: there must be two causes.
    cause = np.append(event, 2).astype(np.int64)
    time, x = np.append(time, 99.0), np.vstack([x, [0.0, 0.0]])
    found = fit_fine_gray(x, CompetingRisks(time, cause, ("a", "b")), names=["u", "v"])
    cox = fit_cox(x, Survival(time, cause == 1), names=["u", "v"], robust=True)
    np.testing.assert_allclose(found.coefficients, cox.coefficients, rtol=1e-8)
    np.testing.assert_allclose(found.se, cox.se, rtol=1e-6)


def test_without_censoring_those_with_another_event_never_leave():
    rng = np.random.default_rng(5)
    x, time, cause = (
        rng.normal(size=(200, 1)),
        rng.exponential(size=200),
        1 + (rng.random(200) < 0.4),
    )
    found = fit_fine_gray(x, CompetingRisks(time, cause.astype(np.int64), ("a", "b")), names=["u"])
    forever = Survival(np.where(cause == 2, 1e6, time), cause == 1)
    cox = fit_cox(x, forever, names=["u"], robust=True)
    np.testing.assert_allclose(found.coefficients, cox.coefficients, rtol=1e-8)
    np.testing.assert_allclose(found.se, cox.se, rtol=1e-6)


def test_entry_times_are_refused_with_another_way():
    outcome = CompetingRisks(
        np.array([1.0, 2, 3]), np.array([1, 2, 0]), ("a", "b"), np.full(3, 0.5)
    )
    with pytest.raises(StatisticsError, match=r"entry times.*cause-specific"):
        fit_fine_gray([[1.0], [2.0], [0.0]], outcome, names=["u"])


def test_no_event_of_interest_is_refused():
    outcome = CompetingRisks(np.array([1.0, 2, 3]), np.array([2, 2, 0]), ("a", "b"))
    with pytest.raises(StatisticsError, match="none of 3 patients"):
        fit_fine_gray([[1.0], [2.0], [0.0]], outcome, names=["u"])
