"""Added value equals what nested models in R give, and says what it cannot know."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

from storm_clinic.cohort.outcome import Survival
from storm_clinic.errors import StatisticsError
from storm_clinic.inference.added_value import added_value, per_sd
from storm_clinic.inference.cox import fit_cox
from storm_clinic.inference.fine_gray import fit_fine_gray
from storm_clinic.inference.logistic import fit_logistic

_R = json.loads((Path(__file__).parents[1] / "golden" / "added_value.json").read_text())
EVERY = [(name, kind) for name, values in _R.items() for kind in values]


def found_in(case, kind):
    fits = {
        "cox": lambda d, n: fit_cox(d, case.outcome, names=n),
        "logistic": lambda d, n: fit_logistic(d, case.outcome.event, names=n),
        "fine_gray": lambda d, n: fit_fine_gray(d, case.competing, names=n),
    }
    risk, _ = per_sd(case.design[:, 0])
    return added_value(risk, case.design[:, 1:], fits[kind], clinical_names=case.names[1:])


@pytest.mark.parametrize(("name", "kind"), EVERY)
def test_the_first_covariate_adds_to_the_rest_what_r_says(regression_cases, name, kind):
    found, r = found_in(regression_cases[name].case, kind), _R[name][kind]
    assert found.test.statistic == pytest.approx(r["chisq"], rel=1e-6, abs=1e-8)
    one = found.both.interval(0)
    ours = np.exp([one.coefficient, one.lower, one.upper])
    assert ours == pytest.approx(r["ratio"], rel=1e-6)
    if kind == "fine_gray":
        assert found.test == found.wald
    else:
        assert found.test.p == pytest.approx(r["p"], rel=1e-5)
        assert found.adequacy == pytest.approx(r["adequacy"], abs=1e-7)


def test_a_sum_of_what_the_clinical_model_says_adds_nothing(lung):
    case = lung.case
    again = case.design @ fit_cox(case.design, case.outcome, names=case.names).coefficients
    with pytest.raises(StatisticsError, match="follows from the other"):
        added_value(
            again,
            case.design,
            lambda d, n: fit_cox(d, case.outcome, names=n),
            clinical_names=case.names,
        )


def test_adequacy_is_near_one_where_the_risk_is_noise(lung):
    case = lung.case
    noise = np.random.default_rng(1).normal(size=len(case.table))
    found = added_value(
        noise,
        case.design,
        lambda d, n: fit_cox(d, case.outcome, names=n),
        clinical_names=case.names,
    )
    assert 0.85 < found.adequacy <= 1
    assert found.test.p > 0.01


def test_a_single_event_is_no_base_for_added_value():
    rng = np.random.default_rng(2)
    outcome = Survival(np.arange(1.0, 21), np.arange(20) == 7)
    with pytest.raises(StatisticsError):
        added_value(
            rng.normal(size=20),
            rng.normal(size=(20, 2)),
            lambda d, n: fit_cox(d, outcome, names=n),
            clinical_names=["a", "b"],
        )


@pytest.mark.parametrize("values", [np.full(9, 0.3), np.array([1.0, np.nan]), np.array([2.0])])
def test_a_risk_without_a_spread_has_no_unit(values):
    with pytest.raises(StatisticsError):
        per_sd(values)


def test_per_sd_has_mean_0_and_deviation_1():
    values, sd = per_sd([1.0, 3.0, 8.0])
    assert (values.mean(), values.std(ddof=1)) == pytest.approx((0, 1))
    assert sd == pytest.approx(np.std([1, 3, 8], ddof=1))
