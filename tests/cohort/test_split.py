from __future__ import annotations

import itertools
import json

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from storm_clinic.cohort.fold_search import arrange_groups
from storm_clinic.cohort.split import Splits, make_splits
from storm_clinic.errors import CohortError, OutcomeError


def random_cohort(seed, n_patients=200, n_sites=15, event_rate=0.3):
    rng = np.random.default_rng(seed)
    keys = [f"K{n:04d}" for n in rng.permutation(n_patients)]
    weights = rng.dirichlet(np.ones(n_sites))
    sites = [f"site{s}" for s in rng.choice(n_sites, size=n_patients, p=weights)]
    event = (rng.random(n_patients) < event_rate).astype(int)
    return keys, event, sites


def sites_per_fold(fold, sites):
    return [{site for site, f in zip(sites, fold, strict=True) if f == k} for k in set(fold)]


def unevenness(fold, strata, folds):
    """Sum over folds and strata of (n - expected)^2 / expected, sizes included."""
    total = 0.0
    for members in [strata == s for s in np.unique(strata)] + [np.ones(len(strata), bool)]:
        n = np.array([(members & (fold == k)).sum() for k in range(folds)])
        total += ((n - members.sum() / folds) ** 2 / (members.sum() / folds)).sum()
    return total


@settings(max_examples=40, deadline=None)
@given(
    seed=st.integers(0, 10**6),
    n_sites=st.integers(2, 30),
    folds=st.integers(2, 6),
    repeats=st.integers(1, 3),
)
def test_every_patient_is_tested_once_a_repeat_and_no_site_is_divided(
    seed, n_sites, folds, repeats
):
    keys, event, sites = random_cohort(seed, n_sites=n_sites)
    splits = make_splits(keys, event, sites, folds=folds, repeats=repeats, seed=seed)
    assert splits.keys == tuple(keys)
    assert splits.fold.shape == (splits.n_repeats, len(keys))
    assert 1 <= splits.n_repeats <= repeats
    divided = any("divide patients" in note for note in splits.notes)
    for fold in splits.fold:
        assert set(fold) == set(range(len(np.unique(splits.fold))))
        assert 2 <= len(np.unique(splits.fold)) <= folds
        for k in range(len(np.unique(splits.fold))):
            assert event[fold == k].sum() >= 1
        parts = sites_per_fold(fold.tolist(), sites)
        if not divided:
            assert not any(one & other for one, other in itertools.combinations(parts, 2))
    if len(np.unique(splits.fold)) < folds or splits.n_repeats < repeats:
        assert splits.notes


@pytest.mark.parametrize("sites", [True, False])
def test_the_order_of_patients_changes_nothing(sites):
    keys, event, names = random_cohort(4)
    groups = names if sites else None
    splits = make_splits(keys, event, groups, folds=5, repeats=3, seed=1)
    shuffle = np.random.default_rng(0).permutation(len(keys))
    shuffled = make_splits(
        [keys[i] for i in shuffle],
        event[shuffle],
        [names[i] for i in shuffle] if sites else None,
        folds=5,
        repeats=3,
        seed=1,
    )
    np.testing.assert_array_equal(shuffled.fold, splits.fold[:, shuffle])
    assert shuffled.digest == splits.digest
    assert shuffled.notes == splits.notes


@pytest.mark.parametrize("seed", range(5))
def test_without_sites_folds_differ_by_one_patient_and_one_event_at_most(seed):
    keys, event, _ = random_cohort(seed, n_patients=101)
    splits = make_splits(keys, event, None, folds=5, repeats=2, seed=seed)
    for fold in splits.fold:
        assert np.ptp(np.bincount(fold)) <= 1
        assert np.ptp(np.bincount(fold[event == 1])) <= 1
        assert np.ptp(np.bincount(fold[event == 0])) <= 1


@pytest.mark.parametrize("seed", range(5))
def test_sites_are_spread_better_than_by_chance(seed):
    keys, event, sites = random_cohort(seed, n_patients=300, n_sites=25)
    splits = make_splits(keys, event, sites, folds=5, repeats=1, seed=seed)
    ours = unevenness(splits.fold[0], event, len(np.unique(splits.fold)))
    rng = np.random.default_rng(seed)
    names, at = np.unique(sites, return_inverse=True)
    chance = [
        unevenness(
            rng.integers(len(np.unique(splits.fold)), size=len(names))[at],
            event,
            len(np.unique(splits.fold)),
        )
        for _ in range(500)
    ]
    assert ours <= min(chance)


@pytest.mark.parametrize("seed", range(5))
def test_few_sites_are_arranged_as_well_as_any_arrangement_can(seed):
    keys, event, sites = random_cohort(seed, n_sites=8)
    splits = make_splits(keys, event, sites, folds=3, repeats=1, seed=seed)
    names, at = np.unique(sites, return_inverse=True)
    best = min(
        unevenness(np.array(fold)[at], event, 3)
        for fold in itertools.product(range(3), repeat=len(names))
        if all(event[np.array(fold)[at] == k].sum() for k in range(3))
    )
    assert unevenness(splits.fold[0], event, 3) == pytest.approx(best)


def test_repeats_are_different_partitions():
    keys, event, sites = random_cohort(2, n_sites=20)
    for groups in (sites, None):
        splits = make_splits(keys, event, groups, folds=5, repeats=5, seed=3)
        pairs = [fold[:, None] == fold[None] for fold in splits.fold]
        assert len(pairs) == 5
        for one, other in itertools.combinations(pairs, 2):
            assert (one != other).any()


def test_the_seed_decides():
    keys, event, sites = random_cohort(2)
    digests = [
        make_splits(keys, event, groups, folds=5, repeats=2, seed=seed).digest
        for groups in (sites, None)
        for seed in (1, 1, 2)
    ]
    assert digests[0] == digests[1]
    assert digests[3] == digests[4] != digests[5]


def test_a_site_larger_than_a_fold_is_not_divided_but_named():
    sites = ["large"] * 60 + [f"s{n // 5}" for n in range(40)]
    event = np.arange(100) % 3 == 0
    splits = make_splits([f"K{n}" for n in range(100)], event, sites, folds=5, repeats=2, seed=1)
    assert len(np.unique(splits.fold)) == 5
    for fold in splits.fold:
        sizes = sorted(np.bincount(fold).tolist())
        assert sizes == [10, 10, 10, 10, 60]
    assert any("large (60 of 100 patients)" in note for note in splits.notes)


def test_fewer_sites_than_folds_become_leave_one_site_out():
    sites = ["A"] * 30 + ["B"] * 20 + ["C"] * 25
    event = np.arange(75) % 4 == 0
    splits = make_splits([f"K{n}" for n in range(75)], event, sites, folds=5, repeats=3, seed=1)
    assert sites_per_fold(splits.fold[0].tolist(), sites) in [
        list(parts) for parts in itertools.permutations([{"A"}, {"B"}, {"C"}])
    ]
    # There is one way to leave one site out; repeating it would feign precision.
    assert splits.n_repeats == 1
    assert any("leave-one-site-out, 3 folds instead of 5" in note for note in splits.notes)
    assert any("1 repeat instead of 3" in note for note in splits.notes)


def test_a_site_without_events_joins_another():
    sites = ["A"] * 30 + ["B"] * 20 + ["C"] * 25
    event = np.array([n % 4 == 0 and site != "C" for n, site in enumerate(sites)])
    splits = make_splits([f"K{n}" for n in range(75)], event, sites, folds=5, repeats=1, seed=1)
    assert len(np.unique(splits.fold)) == 2
    assert all(event[splits.fold[0] == k].any() for k in range(2))
    assert any("2 of 3 sites have events" in note for note in splits.notes)


@pytest.mark.parametrize("sites", [["A"] * 40, ["A"] * 30 + ["B"] * 10])
def test_events_at_one_site_only_are_split_by_patient_and_said(sites):
    event = np.array([n % 3 == 0 and site == "A" for n, site in enumerate(sites)])
    splits = make_splits([f"K{n}" for n in range(40)], event, sites, folds=4, repeats=2, seed=1)
    assert len(np.unique(splits.fold)) == 4
    assert any("folds divide patients, not sites" in note for note in splits.notes)


def test_fewer_events_than_folds_make_fewer_folds():
    event = np.zeros(50, dtype=int)
    event[:3] = 1
    splits = make_splits([f"K{n}" for n in range(50)], event, None, folds=5, repeats=2, seed=1)
    assert len(np.unique(splits.fold)) == 3
    assert any("3 folds instead of 5: only 3 patients" in note for note in splits.notes)


@pytest.mark.parametrize("n_events", [0, 1])
def test_without_two_events_there_are_no_folds(n_events):
    event = np.zeros(50, dtype=int)
    event[:n_events] = 1
    with pytest.raises(OutcomeError, match="every fold needs one"):
        make_splits([f"K{n}" for n in range(50)], event, None, folds=5, repeats=1, seed=1)


def test_every_class_that_is_required_is_in_every_fold():
    rng = np.random.default_rng(0)
    label = rng.permutation([0] * 6 + [1] * 50 + [2] * 7)
    sites = [f"s{n}" for n in rng.integers(12, size=63)]
    keys = [f"K{n}" for n in range(63)]
    splits = make_splits(keys, label, sites, folds=3, repeats=1, seed=1, required=(0, 1, 2))
    for k in range(len(np.unique(splits.fold))):
        assert set(label[splits.fold[0] == k]) == {0, 1, 2}


def test_patients_without_a_site_are_kept_together():
    sites = np.array(["A"] * 20 + ["B"] * 20 + [None] * 5 + [float("nan")] * 5 + [""] * 5, object)
    event = np.arange(55) % 2
    splits = make_splits([f"K{n}" for n in range(55)], event, sites, folds=3, repeats=1, seed=1)
    assert len(set(splits.fold[0][40:])) == 1
    assert any("15 patients without a site" in note for note in splits.notes)


def test_keys_can_be_replaced_and_folds_stay():
    keys, event, sites = random_cohort(5)
    splits = make_splits(keys, event, sites, folds=3, repeats=2, seed=1)
    renamed = splits.with_keys({key: f"x{key}" for key in keys})
    # In the order of the new names: that of the old would tell something about them.
    assert list(renamed.keys) == sorted(f"x{key}" for key in keys)
    assert dict(zip(renamed.keys, renamed.fold.T.tolist(), strict=True)) == {
        f"x{key}": folds for key, folds in zip(splits.keys, splits.fold.T.tolist(), strict=True)
    }


def test_a_file_of_splits_comes_back_and_betrays_a_change(tmp_path):
    keys, event, sites = random_cohort(6)
    splits = make_splits(keys, event, sites, folds=3, repeats=2, seed=1)
    path = tmp_path / "splits.json"
    splits.write(path)
    back = Splits.read(path)
    np.testing.assert_array_equal(back.fold, splits.fold)
    assert (back.keys, back.notes, back.seed) == (splits.keys, splits.notes, splits.seed)
    assert back.digest == splits.digest
    value = json.loads(path.read_text())
    value["fold"][0][0] = (value["fold"][0][0] + 1) % 3
    path.write_text(json.dumps(value))
    with pytest.raises(CohortError, match="splits were changed") as caught:
        Splits.read(path)
    assert "splits.json" in str(caught.value)


@pytest.mark.parametrize(
    "text", ["", "[]", "{}", '{"format": "storm-clinic-splits", "format_version": 1}']
)
def test_anything_else_is_no_file_of_splits(tmp_path, text):
    path = tmp_path / "splits.json"
    path.write_text(text)
    with pytest.raises(CohortError, match=r"splits\.json"):
        Splits.read(path)


def test_wrong_arguments_are_refused():
    with pytest.raises(CohortError, match="at least 2 and 1"):
        make_splits(["a", "b"], [1, 1], None, folds=1, repeats=1, seed=1)
    with pytest.raises(CohortError, match="2 keys, 3 strata"):
        make_splits(["a", "b"], [1, 1, 0], None, folds=2, repeats=1, seed=1)
    with pytest.raises(CohortError, match="stands twice"):
        make_splits(["a", "a"], [1, 1], None, folds=2, repeats=1, seed=1)


def test_where_no_arrangement_serves_every_stratum_none_is_made_up():
    # Stratum 0 only at the first group, stratum 1 only at the others: two folds cannot both hold 0.
    counts = np.array([[5, 0], [0, 5], [0, 5]])
    assert arrange_groups(counts, np.array([True, True]), 2, 3, 0) == []
