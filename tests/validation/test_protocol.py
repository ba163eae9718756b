"""The protocol's numbers, held against other libraries, closed forms and brute force."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest
from sklearn.metrics import average_precision_score, roc_auc_score
from sksurv.metrics import concordance_index_censored, concordance_index_ipcw

from storm_clinic.cohort.outcome import Classes, CompetingRisks, Survival
from storm_clinic.errors import PredictionsError
from storm_clinic.metrics.calibration import calibration_slope, log_odds
from storm_clinic.metrics.classes import macro_auroc
from storm_clinic.metrics.competing import wolbers_concordance
from storm_clinic.metrics.discrimination import concordance
from storm_clinic.metrics.incidence import cumulative_incidence
from storm_clinic.predictions import Predictions
from storm_clinic.study import Endpoint
from storm_clinic.validation.evidence import Estimate
from storm_clinic.validation.protocol import evaluate

ENDPOINT = Endpoint(name="pfi", horizons_months=(12, 36), tau_months=60)


def run(predictions: Predictions, keys: list[str], outcome, **changes) -> list[Estimate]:
    settings = {
        "cohort": "b",
        "endpoint": ENDPOINT,
        "candidate": "fusion",
        "comparator": "clinical",
        "kind": "external",
        "seed": 1,
        "bootstraps": 200,
    }
    return evaluate(predictions, keys, outcome, **(settings | changes))


def pick(estimates: list[Estimate], metric: str, model: str = "fusion", **conditions) -> Estimate:
    [found] = [
        e
        for e in estimates
        if (e.metric, e.model) == (metric, model)
        and all(getattr(e, name) == value for name, value in conditions.items())
    ]
    return found


@pytest.fixture(scope="module")
def found(external, keys, outcome) -> list[Estimate]:
    return run(external, keys, outcome)


@pytest.fixture(scope="module")
def cross_validated(keys, hidden, rows) -> Predictions:
    """Each fold's model has its own scale and offset, as models of different folds have."""
    rng = np.random.default_rng(3)
    parts = []
    for model, risk in (
        ("clinical", hidden["clinic"]),
        ("fusion", hidden["clinic"] + 0.7 * hidden["tissue"]),
    ):
        for repeat in range(2):
            fold = rng.permutation(150) % 5
            parts.append(
                rows(keys, risk + 3.0 * fold, model, repeat=repeat, fold=fold, horizons=())
            )
    return Predictions(pd.concat(parts, ignore_index=True))


@pytest.mark.parametrize("model", ["clinical", "image", "fusion"])
def test_the_c_index_is_harrells(found, external, outcome, model):
    risk = external.of(model=model).table["risk"].to_numpy()
    # With tau, events from tau on open no pair: the same as censoring them there.
    event = outcome.event & (outcome.time_months < 60)
    expected = concordance_index_censored(event, outcome.time_months, risk)[0]
    # scikit-survival counts pairs of an event and a censoring at one time as we do.
    assert pick(found, "c_index", model).value == pytest.approx(expected, abs=1e-9)


def test_unos_c_agrees_with_another_library_where_no_times_tie(keys, hidden, external):
    rng = np.random.default_rng(8)
    time, end = rng.exponential(40 / np.exp(hidden["clinic"])), rng.uniform(3, 80, 150)
    outcome = Survival.from_arrays(np.minimum(time, end), time <= end)
    structured = outcome.to_structured()
    risk = external.of(model="clinical").table["risk"].to_numpy()
    expected = concordance_index_ipcw(structured, structured, risk, tau=60)[0]
    estimates = run(external, keys, outcome)
    # Their weights are 1/G(T)^2, ours 1/G(T-)^2: equal but for the step at T itself.
    assert pick(estimates, "c_index_uno", "clinical").value == pytest.approx(expected, abs=2e-3)


def test_a_gain_is_the_difference_of_two_estimates(found):
    gain = pick(found, "c_index_gain", over="clinical")
    difference = pick(found, "c_index").value - pick(found, "c_index", "clinical").value
    assert gain.value == pytest.approx(difference, abs=1e-12)


def test_every_model_is_compared_with_the_comparator_and_the_candidate_with_all(found):
    pairs = {(e.model, e.over) for e in found if e.metric == "c_index_gain"}
    assert pairs == {("fusion", "clinical"), ("image", "clinical"), ("fusion", "image")}


def test_gains_are_paired_so_that_a_twin_gains_exactly_nothing(external, keys, outcome):
    twin = external.of(model="fusion").table.assign(model="twin")
    both = Predictions(pd.concat([external.table, twin], ignore_index=True))
    estimates = run(both, keys, outcome, candidate="twin", comparator="fusion")
    gain = pick(estimates, "c_index_gain", "twin", over="fusion")
    assert (gain.value, gain.lower, gain.upper) == (0.0, 0.0, 0.0)


def test_a_paired_gain_is_narrower_than_the_two_intervals_would_have_it(found):
    widths = [
        pick(found, "c_index", m).upper - pick(found, "c_index", m).lower
        for m in ("fusion", "clinical")
    ]
    gain = pick(found, "c_index_gain", over="clinical")
    assert gain.upper - gain.lower < 0.8 * np.hypot(*widths)


def test_a_seed_moves_resampled_intervals_and_no_other(found, external, keys, outcome):
    assert run(external, keys, outcome) == found
    ours, other = pick(found, "c_index"), pick(run(external, keys, outcome, seed=2), "c_index")
    assert (other.value, other.lower, other.upper) == (ours.value, ours.lower, ours.upper)
    assert other.resampled[0].lower != ours.resampled[0].lower


def test_formula_and_bootstrap_agree_about_a_ranking(found):
    for metric in ("c_index", "c_index_uno", "c_index_gain"):
        for e in (e for e in found if e.metric == metric):
            [again] = e.resampled
            width = e.upper - e.lower
            assert again.lower == pytest.approx(e.lower, abs=0.15 * width), metric
            assert again.upper == pytest.approx(e.upper, abs=0.15 * width), metric


def test_whole_hospitals_are_resampled_where_there_are_enough(external, keys, outcome):
    sites = [f"hospital {at % 6}" for at in range(150)]
    patients, hospitals = pick(run(external, keys, outcome, sites=sites), "c_index").resampled
    assert (hospitals.unit, hospitals.n_units, patients.n_units) == ("sites", 6, 150)
    assert hospitals.lower < pick(run(external, keys, outcome), "c_index").value < hospitals.upper
    few = pick(run(external, keys, outcome, sites=["a", "b", None] * 50), "c_index")
    assert [again.unit for again in few.resampled] == ["patients"]


def test_few_events_fall_back_on_the_bootstrap(external, keys, outcome):
    event = outcome.event & (np.cumsum(outcome.event) <= 9)
    few = run(external, keys, Survival(outcome.time_months, event))
    assert "bootstrap" in pick(few, "c_index").method


def test_the_order_of_rows_and_patients_changes_no_value(found, external, keys, outcome):
    order = np.random.default_rng(0).permutation(150)
    shuffled = Predictions(external.table.sample(frac=1, random_state=1).reset_index(drop=True))
    again = run(shuffled, [keys[i] for i in order], outcome.take(order))
    for estimate in found:
        same = pick(
            again,
            estimate.metric,
            estimate.model,
            over=estimate.over,
            horizon_months=estimate.horizon_months,
        )
        assert same.value == pytest.approx(estimate.value, abs=1e-9), estimate.metric


def test_every_estimate_carries_its_interval_size_and_method(found, outcome):
    for e in found:
        assert e.lower is not None
        assert e.lower <= e.upper
        assert (e.n_patients, e.n_events) == (150, outcome.n_events)
        assert ("infinitesimal jackknife" in e.method) != ("200 bootstrap resamples" in e.method)


def test_cross_validated_pairs_are_compared_inside_folds_only(cross_validated, keys, outcome):
    estimates = run(cross_validated, keys, outcome, kind="cross-validation")
    expected = np.mean(
        [
            brute_force_within(part, keys, outcome)
            for _, part in cross_validated.of(model="fusion").table.groupby("repeat")
        ]
    )
    assert pick(estimates, "c_index").value == pytest.approx(expected, abs=1e-12)
    # Across folds the offsets of 3 would swamp the ranking.
    pooled = cross_validated.of(model="fusion").table.query("repeat == 0")["risk"].to_numpy()
    naive = concordance_index_censored(outcome.event, outcome.time_months, pooled)[0]
    assert naive < expected - 0.05


def brute_force_within(part: pd.DataFrame, keys: list[str], outcome: Survival) -> float:
    """Harrell's C up to tau by its definition, pair by pair, inside folds."""
    part = part.set_index("patient_key").loc[keys]
    risk, fold = part["risk"].to_numpy(), part["fold"].to_numpy()
    time, event = outcome.time_months, outcome.event
    credit = pairs = 0.0
    for i in np.flatnonzero(event & (time < 60)):
        for j in range(len(time)):
            later = time[j] > time[i] or (time[j] == time[i] and not event[j])
            if j == i or fold[i] != fold[j] or not later:
                continue
            pairs += 1
            credit += 1.0 if risk[i] > risk[j] else 0.5 if risk[i] == risk[j] else 0.0
    return credit / pairs


def test_cross_validated_intervals_say_that_they_support_no_claim(cross_validated, keys, outcome):
    estimates = run(cross_validated, keys, outcome, kind="cross-validation")
    assert "supports no claim" in pick(estimates, "c_index").method


def test_unos_c_is_for_external_cohorts_only(cross_validated, keys, outcome):
    estimates = run(cross_validated, keys, outcome, kind="cross-validation")
    assert "c_index_uno" not in {e.metric for e in estimates}


def test_a_horizon_beyond_follow_up_is_a_gap_with_its_reason(external, keys, outcome):
    table = external.table.assign(risk_at_120m=0.9)
    endpoint = Endpoint(name="pfi", horizons_months=(12, 120), tau_months=60)
    estimates = run(Predictions(table), keys, outcome, endpoint=endpoint)
    gap = pick(estimates, "auc", horizon_months=120.0)
    assert gap.value is None
    assert "120 months" in gap.note
    assert pick(estimates, "auc", horizon_months=12.0).value is not None
    assert pick(estimates, "auc_gain", over="clinical", horizon_months=120.0).value is None
    # The slope is judged at the last horizon that is followed.
    assert "up to 12 months" in pick(estimates, "calibration_slope").method


def test_a_horizon_nobody_predicted_is_a_gap_with_its_reason(external, keys, outcome):
    endpoint = Endpoint(name="pfi", horizons_months=(12, 24), tau_months=60)
    gap = pick(run(external, keys, outcome, endpoint=endpoint), "o_e", horizon_months=24.0)
    assert gap.value is None
    assert "risk_at_24m" in gap.note


def test_observed_over_expected_is_what_it_says_without_censoring(keys, rows):
    # 60 of 150 have the event by month 12, everybody is followed to month 50.
    time = np.concatenate([np.full(60, 5.0), np.full(90, 50.0)])
    outcome = Survival.from_arrays(time, time < 50)
    table = rows(keys, np.random.default_rng(0).normal(size=150), "fusion")
    table["risk_at_12m"] = 0.2
    endpoint = Endpoint(name="pfi", horizons_months=(12,))
    estimates = run(Predictions(table), keys, outcome, endpoint=endpoint, comparator=None)
    assert pick(estimates, "o_e").value == pytest.approx(0.4 / 0.2)
    # Brier: 60 errors of 0.8 and 90 of 0.2.
    assert pick(estimates, "brier").value == pytest.approx((60 * 0.64 + 90 * 0.04) / 150)


def test_a_risk_without_events_gives_gaps_and_no_crash(keys, external):
    outcome = Survival.from_arrays(np.full(150, 50.0), np.zeros(150, dtype=bool))
    for estimate in run(external, keys, outcome):
        assert estimate.value is None
        assert estimate.note


def test_too_few_events_for_resampling_keep_the_value_and_say_why(keys, external):
    event = np.zeros(150, dtype=bool)
    event[3] = True
    outcome = Survival.from_arrays(np.where(event, 10.0, 50.0), event)
    c = pick(run(external, keys, outcome), "c_index")
    assert c.value is not None
    assert c.lower is None
    assert "resamples" in c.note


def test_a_model_that_is_absent_is_named(external, keys, outcome):
    with pytest.raises(PredictionsError, match="'missing'"):
        run(external, keys, outcome, candidate="missing")


@pytest.fixture(scope="module")
def competing(hidden) -> CompetingRisks:
    rng = np.random.default_rng(9)
    relapse = rng.exponential(40 / np.exp(hidden["clinic"] + 0.7 * hidden["tissue"]))
    times = np.stack([relapse, rng.exponential(60, 150), rng.uniform(3, 80, 150)])
    cause = np.array([1, 2, 0])[times.argmin(axis=0)]
    return CompetingRisks(np.ceil(times.min(axis=0)), cause, ("relapse", "death"))


def test_of_competing_risks_the_first_cause_is_judged(external, keys, competing):
    estimates = run(external, keys, competing)
    risk = external.of(model="fusion").table["risk"]
    c = pick(estimates, "c_index")
    assert c.value == wolbers_concordance(competing, risk, tau_months=60).value
    assert c.n_events == (competing.cause == 1).sum()
    specific = concordance(competing.cause_specific(), risk, tau_months=60).value
    assert pick(estimates, "c_index_cause").value == pytest.approx(specific, abs=1e-12)
    share = cumulative_incidence(competing).at(36)[0]
    mean = external.of(model="fusion").table["risk_at_36m"].mean()
    assert pick(estimates, "o_e", horizon_months=36.0).value == pytest.approx(share / mean)
    for e in estimates:
        assert e.lower is not None, e.note


@pytest.mark.parametrize("kind", ["external", "cross-validation"])
def test_without_competing_events_all_numbers_are_the_survival_ones(
    external, keys, outcome, rows, hidden, kind
):
    if kind == "cross-validation":
        fold = np.arange(150) % 5
        external = Predictions(
            rows(keys, hidden["clinic"], "fusion", repeat=0, fold=fold).reset_index(drop=True)
        )
    lone = CompetingRisks(
        outcome.time_months, outcome.event.astype(np.int64), ("progression", "death")
    )
    changes = {"kind": kind, "comparator": None, "bootstraps": 50}
    found = run(external, keys, lone, **changes)
    for e in run(external, keys, outcome, **changes):
        if e.metric.startswith("auc_integrated"):  # of one event only
            continue
        same = pick(found, e.metric, e.model, horizon_months=e.horizon_months, over=e.over)
        assert same.value == pytest.approx(e.value, abs=1e-9), e.metric
        assert (same.lower, same.upper) == pytest.approx((e.lower, e.upper), abs=1e-7), e.metric


def test_a_fusion_is_held_against_each_of_its_parts_once(external, keys, outcome):
    changes = {"candidate": "clinical", "comparator": None, "bootstraps": 50}
    parts = {"fusion": ("clinical", "image", "not predicted")}
    estimates = run(external, keys, outcome, parts=parts, **changes)
    pairs = [(e.model, e.over) for e in estimates if e.metric == "c_index_gain"]
    assert sorted(pairs) == [
        ("clinical", "fusion"),
        ("clinical", "image"),
        ("fusion", "clinical"),
        ("fusion", "image"),
    ]
    gain = pick(estimates, "c_index_gain", "fusion", over="image")
    own = pick(estimates, "c_index", "fusion").value - pick(estimates, "c_index", "image").value
    assert gain.value == pytest.approx(own, abs=1e-12)


@pytest.fixture(scope="module")
def classes() -> tuple[Predictions, list[str], Classes]:
    rng = np.random.default_rng(6)
    keys = [f"p{i}" for i in range(200)]
    x, y = rng.normal(size=200), rng.normal(size=200)
    label = (rng.random(200) < 1 / (1 + np.exp(1 - x - y))).astype(np.int64)
    parts = []
    for model, lp in (("clinical", x - 1), ("fusion", x + y - 1)):
        p = 1 / (1 + np.exp(-lp))
        names = {"cohort": "b", "patient_key": keys, "model": model, "repeat": -1, "fold": -1}
        parts.append(pd.DataFrame({**names, "risk": lp, "p_no": 1 - p, "p_yes": p}))
    return Predictions(pd.concat(parts, ignore_index=True)), keys, Classes(label, ("no", "yes"))


def test_binary_outcomes_agree_with_scikit_learn(classes):
    predictions, keys, outcome = classes
    estimates = run(predictions, keys, outcome)
    p = predictions.of(model="fusion").table["p_yes"].to_numpy()
    assert pick(estimates, "auroc").value == pytest.approx(roc_auc_score(outcome.label, p))
    expected = average_precision_score(outcome.label, p)
    assert pick(estimates, "average_precision").value == pytest.approx(expected)
    brier = np.mean((p - outcome.label) ** 2)
    assert pick(estimates, "brier").value == pytest.approx(brier)
    share = outcome.label.mean()
    scaled = 1 - brier / (share * (1 - share))
    assert pick(estimates, "brier_scaled").value == pytest.approx(scaled)
    assert pick(estimates, "o_e").value == pytest.approx(share / p.mean())


def test_binary_gains_and_calibration_are_there(classes):
    predictions, keys, outcome = classes
    estimates = run(predictions, keys, outcome)
    assert pick(estimates, "auroc_gain", over="clinical").lower > 0
    assert pick(estimates, "calibration_slope").lower is not None
    assert pick(estimates, "calibration_intercept").lower is not None


@pytest.fixture(scope="module")
def three() -> tuple[Predictions, list[str], Classes]:
    rng = np.random.default_rng(12)
    keys = [f"p{i}" for i in range(240)]
    logits = rng.normal(size=(240, 3))
    p = np.exp(logits) / np.exp(logits).sum(axis=1, keepdims=True)
    label = np.array([rng.choice(3, p=row) for row in p], dtype=np.int64)
    parts = []
    for model, q in (("clinical", 0.5 * p + 1 / 6), ("fusion", p)):
        names = {"cohort": "b", "patient_key": keys, "model": model, "repeat": 0}
        columns = {f"p_grade {k + 1}": q[:, k] for k in range(3)}
        fold = np.arange(240) % 4
        parts.append(pd.DataFrame({**names, "fold": fold, "risk": q[:, 2], **columns}))
    levels = ("grade 1", "grade 2", "grade 3")
    return Predictions(pd.concat(parts, ignore_index=True)), keys, Classes(label, levels)


def test_three_classes_are_judged_together_and_one_by_one(three):
    predictions, keys, outcome = three
    estimates = run(predictions, keys, outcome, kind="cross-validation")
    table = predictions.of(model="fusion").table
    p = table[[f"p_{level}" for level in outcome.levels]].to_numpy()
    macro = pick(estimates, "auroc_macro")
    assert macro.value == macro_auroc(outcome, p, within=table["fold"]).value
    assert macro.lower > 0.5
    assert "supports no claim" in macro.method
    for at, level in enumerate(outcome.levels):
        alone = pick(estimates, "auroc", level=level)
        assert alone.n_events == (outcome.label == at).sum()
        ratio = pick(estimates, "o_e", level=level).value
        assert ratio == pytest.approx(np.mean(outcome.label == at) / p[:, at].mean())
        alone = Classes((outcome.label == at).astype(np.int64), ("other", "this"))
        expected = calibration_slope(alone, log_odds(p[:, at])).value
        assert pick(estimates, "calibration_slope", level=level).value == expected
    assert {e.level for e in estimates if e.over} == {None}
    assert pick(estimates, "log_score").value < pick(estimates, "log_score", "clinical").value


def test_a_class_nobody_predicted_is_a_gap_with_its_reason(three):
    predictions, keys, outcome = three
    named = Classes(outcome.label, ("grade 1", "grade 2", "grade 4"))
    estimates = run(predictions, keys, named, kind="cross-validation")
    assert "p_grade 4" in pick(estimates, "auroc_macro").note
    assert pick(estimates, "auroc", level="grade 1").value is not None
