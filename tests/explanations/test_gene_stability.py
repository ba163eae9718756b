"""Importance and stability of genes against what can be counted by hand."""

from __future__ import annotations

import numpy as np
import pytest

from storm_clinic.explanations.gene_stability import direction, importance, stability


def test_importance_is_a_genes_part_of_all_sizes_whatever_the_sign():
    shares = np.array([[2.0, -1.0, 0.0], [-4.0, 1.0, 0.0]])
    np.testing.assert_allclose(importance(shares), [0.75, 0.25, 0])
    np.testing.assert_allclose(importance(7 * shares), importance(shares))
    assert importance(np.zeros((2, 3))).tolist() == [0, 0, 0]


def test_direction_is_the_sign_of_a_linear_models_weight():
    moved = np.random.default_rng(0).normal(size=(30, 3))
    weight = np.array([0.5, -2.0, 0.0])
    assert direction(moved * weight, moved).tolist() == [1, -1, 0]


def test_the_share_of_folds_counts_those_where_a_gene_is_in_the_top():
    by_fold = np.array([[5, 4, 1, 0.0], [4, 5, 1, 0], [5, 1, 4, 0], [5, 4, 1, 0]])
    found = stability(by_fold, 2)
    assert found.in_top.tolist() == [1.0, 0.75, 0.25, 0.0]
    ranks = np.array([[4, 3, 2, 1], [3, 4, 2, 1], [4, 2, 3, 1], [4, 3, 2, 1]])
    pairs = [np.corrcoef(ranks[i], ranks[j])[0, 1] for i in range(4) for j in range(i)]
    assert found.rank_correlation == pytest.approx(np.mean(pairs))


def test_a_fold_that_does_not_look_at_genes_ranks_none():
    found = stability(np.array([[0.5, 0.3, 0.2], [0.0, 0.0, 0.0]]), 2)
    assert found.in_top.tolist() == [0.5, 0.5, 0.0]
    assert found.rank_correlation is None
    assert stability(np.array([[0.5, 0.3, 0.2]]), 1).rank_correlation is None
