from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from storm_clinic.metrics.discrimination import concordance, uno_concordance
from storm_clinic.metrics.ordered_pairs import Side, signed_sums


def side(rng: np.random.Generator, n: int, times: int, ranks: int) -> Side:
    at = np.sort(rng.integers(0, times, n))
    return Side(at, rng.integers(0, ranks, n), rng.normal(size=n))


def by_hand(early: Side, late: Side) -> tuple[np.ndarray, np.ndarray]:
    sign = np.sign(early.rank[:, None] - late.rank) * (early.at[:, None] < late.at)
    return sign @ late.amount, early.amount @ sign


@settings(max_examples=60, deadline=None)
@given(
    st.integers(0, 10_000),
    st.integers(0, 150),
    st.integers(0, 150),
    st.sampled_from([3, 40, 10_000]),
    st.sampled_from([2, 30, 10_000]),
)
def test_the_tree_sums_what_a_table_of_all_pairs_sums(seed, n_early, n_late, times, ranks):
    rng = np.random.default_rng(seed)
    early, late = side(rng, n_early, times, ranks), side(rng, n_late, times, ranks)
    for found, expected in zip(signed_sums(early, late), by_hand(early, late), strict=True):
        np.testing.assert_allclose(found, expected, atol=1e-9)


@pytest.mark.parametrize("ties", [False, True])
def test_one_patient_in_both_roles_is_no_pair_with_himself(ties):
    rng = np.random.default_rng(3)
    at = np.sort(rng.integers(0, 50, 200)) if ties else np.arange(200)
    rank = rng.integers(0, 20, 200) if ties else rng.permutation(200)
    both = Side(at, rank, rng.normal(size=200))
    for found, expected in zip(signed_sums(both, both), by_hand(both, both), strict=True):
        np.testing.assert_allclose(found, expected, atol=1e-9)


@pytest.mark.parametrize("months", [False, True])
def test_many_patients_have_the_c_that_matrices_of_pairs_give(random_cohort, months):
    outcome, risk = random_cohort(1, 3000, months=months)
    risk = risk if months else risk + np.random.default_rng(0).uniform(0, 0.01, 3000)
    for metric in (concordance, uno_concordance):
        statistic = metric(outcome, risk, tau_months=40)
        everybody = statistic.under(np.ones((1, 3000)))[0]
        assert statistic.value == pytest.approx(everybody, rel=0, abs=1e-12)


def test_a_tie_between_the_two_highest_ranks_alone_is_seen():
    # Sixteen places fill the tree: nothing pads it.
    rank = np.array([14, *range(14), 14])
    both = Side(np.arange(16), rank, np.ones(16))
    for found, expected in zip(signed_sums(both, both), by_hand(both, both), strict=True):
        np.testing.assert_allclose(found, expected)
