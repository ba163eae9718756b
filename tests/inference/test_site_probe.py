"""Whether numbers tell the hospital: planted, absent, exact under permutation, refused."""

from __future__ import annotations

import numpy as np
import pytest
from sklearn.linear_model import Ridge
from sklearn.metrics import roc_auc_score
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

from storm_clinic.errors import StatisticsError
from storm_clinic.inference.site_probe import (
    _macro_areas,
    _out_of_fold,
    _smoother,
    probe_sites,
)


def _sites(sizes):
    return np.repeat(np.arange(len(sizes)), sizes)


def test_finds_sites_that_each_shift_one_feature_of_many():
    rng = np.random.default_rng(1)
    sites = _sites([60, 60, 60])
    x = rng.normal(size=(180, 20))
    x[np.arange(180), 4 * sites] += 2.0
    found = probe_sites(x, sites, seed=2)
    assert found.auroc.value > 0.8
    assert found.auroc.lower > 0.7
    assert found.p == pytest.approx(1 / 201)
    assert (found.n_patients, found.n_sites) == (180, 3)


def test_finds_nothing_where_there_is_nothing():
    rng = np.random.default_rng(3)
    sites = _sites([40, 12, 70])
    areas = [
        probe_sites(rng.normal(size=(122, 8)), sites, seed=s, permutations=1).auroc.value
        for s in range(60)
    ]
    assert np.mean(areas) == pytest.approx(0.5, abs=0.02)


def test_without_a_site_effect_p_is_small_as_often_as_it_says():
    rng = np.random.default_rng(4)
    sites = _sites([30, 20])
    p = np.array(
        [
            probe_sites(rng.normal(size=(50, 5)), sites, seed=s, permutations=39).p
            for s in range(150)
        ]
    )
    # Uniform on 1/40, ..., 1: binomial bounds of three standard errors.
    assert 0.03 <= (p <= 0.1).mean() <= 0.18
    assert 0.37 <= (p <= 0.5).mean() <= 0.63


def test_more_features_than_patients_do_not_make_a_site_out_of_noise():
    rng = np.random.default_rng(5)
    found = probe_sites(rng.normal(size=(60, 300)), _sites([30, 30]), seed=1)
    assert found.auroc.lower < 0.5 < found.auroc.upper
    assert found.p > 0.05


def test_the_area_is_that_of_scikit_learn_for_every_shuffling_with_ties():
    rng = np.random.default_rng(6)
    codes = np.stack([rng.permutation(_sites([10, 15, 20])) for _ in range(3)])
    scores = rng.integers(0, 6, size=(45, 3, 3)).astype(np.float64)
    ours = _macro_areas(scores, codes, 3)
    for at, labels in enumerate(codes):
        theirs = [roc_auc_score(labels == site, scores[:, at, site]) for site in range(3)]
        assert ours[at] == pytest.approx(np.mean(theirs))


@pytest.mark.parametrize("n_features", [3, 200])
def test_scores_are_those_of_scikit_learns_ridge(n_features):
    rng = np.random.default_rng(10)
    x, codes = rng.normal(3, 2, size=(60, n_features)), rng.permutation(_sites([20, 40]))
    test = np.arange(0, 60, 4)
    train = np.setdiff1d(np.arange(60), test)
    model = make_pipeline(StandardScaler(), Ridge(alpha=n_features))
    theirs = model.fit(x[train], (codes[train] == 1).astype(float)).predict(x[test])
    ours = _out_of_fold([_smoother(x, test)], codes[None, :], 2)[test, 0, 1]
    assert ours == pytest.approx(theirs, abs=1e-9)


def test_units_of_features_and_names_of_sites_do_not_matter():
    rng = np.random.default_rng(7)
    sites = _sites([30, 30])
    x = rng.normal(size=(60, 4)) + sites[:, None]
    plain, scaled = probe_sites(x, sites, seed=1), probe_sites(5 + 100 * x, sites, seed=1)
    assert scaled.auroc.value == pytest.approx(plain.auroc.value)
    assert scaled.p == plain.p


def test_a_feature_that_is_constant_tells_nothing():
    found = probe_sites(np.ones((40, 1)), _sites([20, 20]), seed=1)
    assert found.auroc.value == pytest.approx(0.5)
    assert found.p == 1


def test_the_same_seed_gives_the_same_probe():
    rng = np.random.default_rng(8)
    x, sites = rng.normal(size=(50, 3)), _sites([25, 25])
    assert probe_sites(x, sites, seed=9) == probe_sites(x, sites, seed=9)


@pytest.mark.parametrize(
    ("sizes", "says"),
    [([40], "one from another"), ([], "one from another"), ([40, 9], "9 patients")],
)
def test_refuses_sites_that_cannot_be_told(sizes, says):
    sites = _sites(sizes).astype(np.int64)
    with pytest.raises(StatisticsError, match=says):
        probe_sites(np.zeros((len(sites), 2)), sites, seed=1)


def test_refuses_a_missing_feature():
    x = np.zeros((40, 2))
    x[7, 1] = np.nan
    with pytest.raises(StatisticsError, match="finite"):
        probe_sites(x, _sites([20, 20]), seed=1)


def test_refuses_a_site_number_that_nobody_has():
    with pytest.raises(StatisticsError, match="0 patients"):
        probe_sites(np.zeros((40, 1)), 2 * _sites([20, 20]), seed=1)
