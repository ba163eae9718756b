"""Which genes matter to a model, and whether models of other folds would say the same."""

from __future__ import annotations

from dataclasses import dataclass
from itertools import combinations

import numpy as np
from numpy.typing import NDArray
from scipy.stats import spearmanr

Floats = NDArray[np.float64]


def importance(shares: Floats) -> Floats:
    """How much each gene weighs among all: mean size of its share, as a part of all genes' sizes.

    Parameters
    ----------
    shares : float array, shape (n_patients, n_genes)
        What each gene adds to each patient's risk (`Attribution.by_column`).

    Returns
    -------
    float64 array, shape (n_genes,)
        Sums to one; all zeros where the model does not look at genes. Risks of two models are on
        scales of their own, and these parts are not.
    """
    size = np.abs(shares).mean(axis=0)
    total = size.sum()
    return np.asarray(size / total if total > 0 else size)


def direction(shares: Floats, moved: Floats) -> NDArray[np.int64]:
    """Whether more of a gene raises the risk: 1, lowers it: -1, or neither: 0.

    Parameters
    ----------
    shares : float array, shape (n_patients, n_genes)
        What each gene adds to the risk.
    moved : float array, shape (n_patients, n_genes)
        How far the patient's mean expression lies above the baseline's.

    Returns
    -------
    int64 array, shape (n_genes,)
        Sign of the slope of shares on distances through the origin; for a linear model that of
        the gene's weight.
    """
    signs: NDArray[np.int64] = np.sign((shares * moved).sum(axis=0)).astype(np.int64)
    return signs


@dataclass(frozen=True, eq=False)
class Stability:
    """Agreement of folds about genes.

    Attributes
    ----------
    in_top : float64 array, shape (n_genes,)
        Share of folds in which a gene is among the ``n_top`` most important. A gene that the
        model of a fold does not look at is not among them.
    rank_correlation : float or None
        Spearman's, mean over pairs of folds; None where there are fewer than two folds, or one of
        them has all genes alike.
    """

    in_top: Floats
    rank_correlation: float | None


def stability(by_fold: Floats, n_top: int) -> Stability:
    """Hold the importance of genes in several folds against one another.

    Parameters
    ----------
    by_fold : float array, shape (n_folds, n_genes)
        `importance` in each fold.
    n_top : int
        How many genes count as the top.
    """
    order = np.argsort(-by_fold, axis=1, kind="stable")[:, :n_top]
    top = np.zeros(by_fold.shape, dtype=np.bool_)
    np.put_along_axis(top, order, True, axis=1)
    in_top = (top & (by_fold > 0)).mean(axis=0)
    alike = (by_fold.max(axis=1) == by_fold.min(axis=1)).any()
    if len(by_fold) < 2 or alike:
        return Stability(in_top, None)
    pairs = [spearmanr(a, b).statistic for a, b in combinations(by_fold, 2)]
    return Stability(in_top, float(np.mean(pairs)))
