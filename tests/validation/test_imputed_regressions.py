"""Complete cases and multiple imputation of the same question, on lung (lifelines' copy of R's)."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest
from lifelines.datasets import load_lung

from storm_clinic.cohort.outcome import Survival
from storm_clinic.inference.cox import fit_cox
from storm_clinic.study import Endpoint
from storm_clinic.validation.alignment import ModelPredictions
from storm_clinic.validation.evaluation_data import EvaluationData
from storm_clinic.validation.imputed_regressions import imputed_regressions
from storm_clinic.validation.regressions import regressions


@pytest.fixture(scope="module")
def lung() -> pd.DataFrame:
    return load_lung().dropna(subset=["ph.ecog"]).reset_index(drop=True)


def evaluation(lung: pd.DataFrame, covariates: pd.DataFrame) -> EvaluationData:
    risk = lung["ph.ecog"].to_numpy(np.float64)
    n = len(lung)
    model = ModelPredictions("ours", (risk,), (np.full(n, -1),), {})
    return EvaluationData(
        cohort="lung",
        kind="external",
        outcome=Survival.from_arrays(lung["time"] / 30.4375, lung["status"]),
        models=(model,),
        endpoint=Endpoint(name="os"),
        candidate="ours",
        comparator=None,
        seed=3,
        covariates=covariates,
    )


@pytest.fixture(scope="module")
def gaps(lung) -> EvaluationData:
    """Every fourth age is unknown, whatever became of the patient."""
    age = lung["age"].to_numpy(np.float64).copy()
    age[::4] = np.nan
    sex = pd.Categorical(lung["sex"].map({1: "male", 2: "female"}), ["male", "female"])
    return evaluation(lung, pd.DataFrame({"age": age, "sex": sex}))


def test_all_patients_are_in_and_errors_shrink_to_near_those_without_gaps(lung, gaps):
    [imputed] = imputed_regressions(gaps)
    [complete] = [r for r in regressions(gaps).regressions if r.missing == "complete cases"]
    assert (imputed.missing, imputed.n_patients) == ("multiple imputation", len(lung))
    assert complete.n_patients == np.isfinite(gaps.covariates["age"]).sum()
    ours = {term.term: term for term in imputed.terms}
    theirs = {term.term: term for term in complete.terms}
    assert list(ours) == list(theirs)
    risk = next(iter(ours))
    ecog = lung["ph.ecog"].to_numpy(np.float64)
    whole = fit_cox(
        np.column_stack([ecog / ecog.std(ddof=1), lung["age"], lung["sex"] == 2]).astype(float),
        gaps.outcome,
        names=("risk", "age", "sex"),
    )
    # The risk is known of everybody: only the adjustment rests on imputed ages.
    assert ours[risk].coefficient == pytest.approx(whole.coefficients[0], abs=0.02)
    assert whole.se[0] * 0.99 < ours[risk].se < theirs[risk].se


def test_what_is_missing_at_random_is_not_taken_as_known(lung, gaps):
    [imputed] = imputed_regressions(gaps)
    age = next(term for term in imputed.terms if term.term == "age")
    ecog = lung["ph.ecog"].to_numpy(np.float64)
    whole = fit_cox(
        np.column_stack([ecog, lung["age"], lung["sex"] == 2]).astype(float),
        gaps.outcome,
        names=("risk", "age", "sex"),
    )
    assert age.se > whole.se[1]
    assert abs(age.coefficient - whole.coefficients[1]) < 2 * whole.se[1]


def test_the_same_seed_gives_the_same_numbers(gaps):
    assert imputed_regressions(gaps) == imputed_regressions(gaps)


def test_without_a_gap_nothing_is_imputed(lung):
    whole = evaluation(lung, pd.DataFrame({"age": lung["age"].astype(float)}))
    assert imputed_regressions(whole) == ()


def test_what_cannot_be_fitted_says_why(lung):
    unknown = pd.DataFrame({"age": np.full(len(lung), np.nan)})
    [refused] = imputed_regressions(evaluation(lung, unknown))
    assert (refused.terms, refused.method) == ((), "not fitted")
    assert refused.note
