from __future__ import annotations

import numpy as np
import pytest
from scipy.stats import t as student

from storm_clinic.cohort.outcome import Classes, Survival
from storm_clinic.errors import StatisticsError
from storm_clinic.metrics import resampling
from storm_clinic.metrics.discrimination import auroc, concordance, dynamic_auc
from storm_clinic.metrics.overall import brier_scaled
from storm_clinic.metrics.smoothing import calibration_error
from storm_clinic.metrics.uncertainty import (
    Interval,
    average,
    bootstrap,
    bootstrap_band,
    one_by_one,
)

exactly = {"rel": 0, "abs": 1e-9}


def width(interval: Interval) -> float:
    return interval.upper - interval.lower


def test_the_bootstrap_and_the_infinitesimal_jackknife_agree(lung):
    statistic = concordance(lung.outcome, lung.risk)
    resampled, formula = bootstrap(statistic, n=2000, seed=1), statistic.interval()
    assert width(resampled) == pytest.approx(width(formula), rel=0.08)
    assert resampled.se is None
    assert formula.se == statistic.se


def test_an_interval_says_what_it_rests_on(lung):
    interval = bootstrap(concordance(lung.outcome, lung.risk, tau_months=20), n=50, seed=1)
    assert (interval.n_patients, interval.n_events) == (227, 164)
    assert interval.method == (
        "Harrell's C, events before 20 months; 95% percentile interval, "
        "50 bootstrap resamples of patients"
    )


def test_the_same_seed_gives_the_same_interval_and_another_seed_another(lung):
    statistic = concordance(lung.outcome, lung.risk)
    first, again, other = (bootstrap(statistic, n=100, seed=s) for s in (1, 1, 2))
    assert first == again
    assert first != other


def test_the_percentiles_are_those_of_one_resample_after_another(random_cohort):
    outcome, risk = random_cohort(5, 40)
    slow = one_by_one(
        outcome, lambda index: concordance(outcome.take(index), risk[index]).value, "slow"
    )
    fast = bootstrap(concordance(outcome, risk), n=60, seed=9)
    found = bootstrap(slow, n=60, seed=9)
    assert (found.lower, found.upper) == pytest.approx((fast.lower, fast.upper), **exactly)


def test_resamples_draw_as_many_patients_as_there_are():
    rows = resampling.resample(lambda weights: weights, 30, n=200, seed=0)
    assert rows.shape == (200, 30)
    assert (rows.sum(axis=1) == 30).all()
    # A draw of one patient: Poisson-like, mean 1, variance 1 - 1/n.
    assert rows.mean() == 1
    assert rows.var() == pytest.approx(1 - 1 / 30, abs=0.05)


def test_strata_keep_their_sizes_and_clusters_stay_whole():
    labels = np.repeat(["a", "b", "c"], [3, 10, 17])
    inside = resampling.resample(lambda weights: weights, 30, n=50, seed=0, strata=labels)
    for label, size in (("a", 3), ("b", 10), ("c", 17)):
        assert (inside[:, labels == label].sum(axis=1) == size).all()
    whole = resampling.resample(lambda weights: weights, 30, n=50, seed=0, clusters=labels)
    for label in "abc":
        assert (np.ptp(whole[:, labels == label], axis=1) == 0).all()
    assert (whole[:, [0, 3, 13]].sum(axis=1) == 3).all()


def test_many_patients_are_resampled_in_blocks_without_a_seam(monkeypatch):
    monkeypatch.setattr(resampling, "_BLOCK_VALUES", 100)
    rows = resampling.resample(lambda weights: weights, 30, n=10, seed=4)
    assert rows.shape == (10, 30)
    assert (rows.sum(axis=1) == 30).all()
    assert len(np.unique(rows, axis=0)) == 10


def test_a_gain_is_paired_and_so_narrower_than_two_separate_intervals(lung):
    better = concordance(lung.outcome, lung.risk)
    noisy = lung.risk + 0.2 * np.random.default_rng(0).normal(size=227)
    worse = concordance(lung.outcome, noisy)
    gain = better - worse
    assert gain.value == pytest.approx(better.value - worse.value)
    separate = np.hypot(better.se, worse.se)
    assert gain.se < 0.6 * separate
    assert width(bootstrap(gain, n=1000, seed=1)) == pytest.approx(2 * 1.96 * gain.se, rel=0.15)


def test_a_model_gains_nothing_over_itself(lung):
    same = concordance(lung.outcome, lung.risk) - concordance(lung.outcome, lung.risk)
    interval = bootstrap(same, n=100, seed=1)
    assert (interval.value, interval.lower, interval.upper) == (0, 0, 0)


def test_statistics_of_different_patients_have_no_difference(lung, random_cohort):
    other = concordance(*random_cohort(1, 30))
    with pytest.raises(StatisticsError, match="same patients"):
        _ = concordance(lung.outcome, lung.risk) - other
    with pytest.raises(StatisticsError, match="same patients"):
        average([concordance(lung.outcome, lung.risk), other])


def test_an_average_over_repeats_is_resampled_as_one(lung):
    folds = [np.random.default_rng(s).integers(0, 5, 227) for s in range(3)]
    repeats = [concordance(lung.outcome, lung.risk, within=fold) for fold in folds]
    mean = average(repeats)
    assert mean.value == pytest.approx(np.mean([r.value for r in repeats]))
    weights = np.random.default_rng(0).integers(0, 3, (4, 227)).astype(float)
    expected = np.mean([r.under(weights) for r in repeats], axis=0)
    assert mean.under(weights) == pytest.approx(expected, **exactly)
    assert mean.se == pytest.approx(
        np.linalg.norm(np.mean([r.influence for r in repeats], axis=0)), **exactly
    )
    assert mean.method.endswith("mean of 3")


def test_too_few_events_for_an_interval_is_an_error_and_not_a_short_interval():
    outcome = Survival.from_arrays(np.arange(1, 41), np.arange(40) == 20)
    statistic = concordance(outcome, np.arange(40))
    # A resample misses the only event with probability exp(-1).
    with pytest.raises(StatisticsError, match="too few patients or events"):
        bootstrap(statistic, n=200, seed=1)


def test_a_few_failing_resamples_are_counted_in_the_method():
    label = np.zeros(40, dtype=np.int64)
    label[:4] = 1  # missed by about 1.5% of the resamples
    statistic = auroc(Classes(label, ("no", "yes")), np.arange(40)[::-1] % 7)
    assert "of them without a value" in bootstrap(statistic, n=2000, seed=1).method


def test_without_a_formula_an_interval_asks_for_the_bootstrap(lung):
    statistic = calibration_error(lung.outcome, lung.probability, horizon_months=12)
    assert statistic.se is None
    with pytest.raises(StatisticsError, match=r"bootstrap\(\)"):
        statistic.interval()


def test_intervals_are_symmetric_on_the_scale_of_their_number(lung):
    at = lung.case.horizon_months

    def logit(x):
        return np.log(x / (1 - x))

    c = concordance(lung.outcome, lung.risk).interval()
    assert logit(c.lower) + logit(c.upper) == pytest.approx(2 * logit(c.value))
    assert "logit scale" in c.method
    scaled = brier_scaled(lung.outcome, lung.probability, horizon_months=at).interval()
    assert (1 - scaled.lower) * (1 - scaled.upper) == pytest.approx((1 - scaled.value) ** 2)
    gain = concordance(lung.outcome, lung.risk) - concordance(
        lung.outcome, -lung.outcome.time_months
    )
    interval = gain.interval()
    assert interval.lower + interval.upper == pytest.approx(2 * gain.value)


def test_a_value_at_the_edge_of_its_scale_has_the_plain_interval():
    outcome = Survival.from_arrays(np.arange(1, 9), [1, 1, 1, 1, 0, 0, 0, 0])
    interval = concordance(outcome, np.arange(8)[::-1]).interval()
    assert (interval.lower, interval.value, interval.upper) == (1, 1, 1)
    assert "scale" not in interval.method


def test_the_quantile_knows_how_few_events_or_clusters_there_are(lung):
    statistic = concordance(lung.outcome, lung.risk)
    gain = statistic - concordance(lung.outcome, np.cos(np.arange(227.0)))
    plain, by_site = gain.interval(), gain.interval(clusters=np.arange(227) % 7)
    assert (plain.upper - plain.value) / plain.se == pytest.approx(student(163).ppf(0.975))
    assert (by_site.upper - by_site.value) / by_site.se == pytest.approx(student(6).ppf(0.975))
    assert by_site.method.endswith("7 clusters, 6 degrees of freedom")


def test_a_band_is_pointwise():
    index = np.arange(20.0)

    def curve(weights):
        mean = weights @ index / weights.sum(axis=1)
        return np.stack([mean, -mean], axis=1)

    lower, upper = bootstrap_band(curve, 20, n=500, seed=2)
    assert lower == pytest.approx(-upper[::-1])
    assert lower[0] < 9.5 < upper[0]


@pytest.mark.parametrize(
    ("options", "problem"),
    [
        ({"n": 0}, "at least one"),
        ({"level": 1.0}, "between 0 and 1"),
        ({"clusters": np.zeros(227)}, "one cluster"),
        ({"strata": np.zeros(3)}, "strata of shape"),
        ({"strata": np.zeros(227), "clusters": np.arange(227)}, "not both"),
    ],
)
def test_illegal_resampling_is_refused(lung, options, problem):
    with pytest.raises(StatisticsError, match=problem):
        bootstrap(concordance(lung.outcome, lung.risk), **{"n": 20, "seed": 1, **options})


def test_one_patient_alone_decides_nothing_about_another_horizon(lung):
    # Weights of zero everywhere but few patients: NaN, never a number from nothing.
    statistic = dynamic_auc(lung.outcome, lung.risk, 12)
    alone = np.zeros((1, 227))
    alone[0, 0] = 227
    assert np.isnan(statistic.under(alone)).all()
