"""What is missing, among whom, and the covariates without gaps, several times."""

from __future__ import annotations

import numpy as np
import pandas as pd
from scipy.stats import chi2_contingency

from storm_clinic.cohort.outcome import Bools, Classes, CompetingRisks, Floats, Outcome
from storm_clinic.errors import StatisticsError
from storm_clinic.inference.imputation import imputations_needed, impute
from storm_clinic.inference.multiplicity import holm
from storm_clinic.metrics.compare import log_rank
from storm_clinic.metrics.inputs import of_interest
from storm_clinic.study import Endpoint
from storm_clinic.validation.analyses import HypothesisTest, Missingness
from storm_clinic.validation.evaluation_data import EvaluationData

_SMALL_CELL = 5  # expected patients below which the chi-square approximation is poor


def missingness(data: EvaluationData) -> tuple[Missingness, ...]:
    """How much of each covariate is missing, and whether that goes with the outcome.

    Shares are among patients with the event (of interest, or the last level) by the last horizon,
    and among those without it by then; who was censored before counts in neither. Without a
    horizon they are among those with and without the event. The tests are log-rank (of the first
    cause's hazard with competing risks) or chi-square, Holm-adjusted over the covariates.

    Parameters
    ----------
    data : EvaluationData
        Its covariates, outcome and horizons are used.

    Returns
    -------
    tuple of Missingness
        One a covariate, in order; empty without covariates.
    """
    if data.covariates is None:
        return ()
    gaps = {str(name): data.covariates[name].isna().to_numpy(np.bool_) for name in data.covariates}
    tests = _adjusted([_goes_with(data.outcome, missing) for missing in gaps.values()])
    having, free = _by_last_horizon(data.outcome, data.endpoint)
    n_unknown = int((~having & ~free).sum())
    if n_unknown:
        left = f"{n_unknown} patients censored before the last horizon are in neither share."
        tests = [t.model_copy(update={"note": f"{t.note} {left}".strip()}) for t in tests]
    return tuple(
        Missingness(
            cohort=data.cohort,
            variable=name,
            n_patients=len(missing),
            n_missing=int(missing.sum()),
            missing_with_event=_share(missing, having),
            missing_without_event=_share(missing, free),
            test=test.model_copy(update={"about": name}),
        )
        for (name, missing), test in zip(gaps.items(), tests, strict=True)
    )


def imputed_tables(
    data: EvaluationData, m: int | None = None, *, beside: Floats | None = None
) -> list[pd.DataFrame]:
    """Covariates of the evaluated patients without gaps, several times.

    The imputation models see the outcome and the risk that will stand beside the covariates. The
    clinical comparator's should not: it is nearly a function of the covariates, and where these are
    missing its risk rests on a guess of them, which would come back as fact. The same holds, the
    less the more it sees of the slide, for a model that fuses the slide with the covariates.

    Parameters
    ----------
    data : EvaluationData
        Seeded by its seed.
    m : int, optional
        Imputations, at least 2; as many as the percentage of incomplete patients unless given.
    beside : float64 array, shape (n_patients, n_numbers), optional
        Risks (or other complete numbers) on the scale on which the regression holds them; the
        candidate's risk, standardised inside folds, unless given. No columns: none.

    Returns
    -------
    list of DataFrame
        Columns, types and rows as ``data.covariates``.

    Raises
    ------
    StatisticsError
        If there are no covariates, and as `storm_clinic.inference.imputation.impute`.
    """
    if data.covariates is None:
        raise StatisticsError(f"no covariates of {data.cohort}", fix="Name some in the study.")
    if beside is None:
        candidate = data.model(data.candidate)
        beside = _one_scale(candidate.risk, candidate.fold)[:, None]
    imputed = impute(
        data.covariates,
        data.outcome,
        n_imputations=imputations_needed(data.covariates) if m is None else m,
        seed=data.seed,
        beside=beside,
    )
    return list(imputed.tables)


def _one_scale(risks: tuple[Floats, ...], folds: tuple[np.ndarray, ...]) -> Floats:
    """One number a patient: risks standardised inside each fold, averaged over repeats."""
    scaled = []
    for risk, fold in zip(risks, folds, strict=True):
        one = np.empty(len(risk))
        for code in np.unique(fold):
            inside = fold == code
            spread = float(risk[inside].std())
            one[inside] = (risk[inside] - risk[inside].mean()) / (spread if spread > 0 else 1.0)
        scaled.append(one)
    return np.asarray(np.mean(scaled, axis=0))


def _by_last_horizon(outcome: Outcome, endpoint: Endpoint) -> tuple[Bools, Bools]:
    """Who had the event by the last horizon, and who is known not to have had it."""
    if isinstance(outcome, Classes):
        had = outcome.label == len(outcome.levels) - 1
        return had, ~had
    interest = of_interest(outcome)
    if not endpoint.horizons_months:
        return interest, ~interest
    last = max(endpoint.horizons_months)
    had = interest & (outcome.time_months <= last)
    free = outcome.time_months > last
    if isinstance(outcome, CompetingRisks):
        free |= outcome.cause > 1  # another event came first: it will never happen
    return had, free & ~had


def _share(missing: Bools, among: Bools) -> float | None:
    return float(missing[among].mean()) if among.any() else None


def _goes_with(outcome: Outcome, missing: Bools) -> HypothesisTest:
    """Test of whether those with a gap fare as the others do."""
    name = "chi-square" if isinstance(outcome, Classes) else "log-rank"
    if not missing.any() or missing.all():
        who = "nobody" if not missing.any() else "everybody"
        return HypothesisTest(name=name, note=f"It is missing in {who}: nothing to compare.")
    try:
        if isinstance(outcome, Classes):
            return _chi_square(outcome, missing)
        cause = isinstance(outcome, CompetingRisks)
        alone = outcome.cause_specific() if isinstance(outcome, CompetingRisks) else outcome
        found = log_rank(alone, missing)
    except StatisticsError as error:
        return HypothesisTest(name=name, note=str(error))
    method = "log-rank test of patients with against patients without a value"
    if cause:
        method += ", of the first cause's hazard"
    return HypothesisTest(name=name, statistic=found.chi2, df=found.df, p=found.p, method=method)


def _chi_square(outcome: Classes, missing: Bools) -> HypothesisTest:
    table = np.array([np.bincount(outcome.label[g], minlength=len(outcome.levels))
                      for g in (missing, ~missing)])  # fmt: skip
    table = table[:, table.sum(axis=0) > 0]
    if table.shape[1] < 2:
        raise StatisticsError("only one class occurs")
    found = chi2_contingency(table, correction=False)
    least = float(found.expected_freq.min())
    note = f"Only {least:.1f} patients expected in a cell." if least < _SMALL_CELL else ""
    return HypothesisTest(
        name="chi-square", statistic=float(found.statistic), df=int(found.dof),
        p=float(found.pvalue), method="chi-square test without correction", note=note,
    )  # fmt: skip


def _adjusted(tests: list[HypothesisTest]) -> list[HypothesisTest]:
    made = {i: test.p for i, test in enumerate(tests) if test.p is not None}
    for i, p in zip(made, holm(list(made.values())), strict=True):
        tests[i] = tests[i].model_copy(update={"p_adjusted": float(p)})
    return tests
