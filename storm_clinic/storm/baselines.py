"""Rivals of STORM on the same folds: linear probes of image embeddings, and controls without one.

All take training sections as one entry each and give predictions for the spots of another. Who
leaves out patients joins a patient's sections to one entry: the ridge is then tuned that way too.

References
----------
Jaume et al., HEST-1k, NeurIPS 2024 (the probe: PCA to 256, ridge).
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy import sparse

from storm_clinic.errors import SectionError, StatisticsError
from storm_clinic.storm.dual_ridge import DualRidge, Floats
from storm_clinic.storm.map_agreement import gene_correlation

HEST_COMPONENTS = 256
# Blocks divided by the root of their width have products of about 1, so that penalties between
# a hundredth and ten thousand go from hardly any to nearly all, whatever the encoder.
ALPHAS: tuple[float, ...] = tuple(float(alpha) for alpha in np.logspace(-2, 4, 25))


def hest_probe(
    features: Sequence[NDArray[Any]], targets: Sequence[NDArray[Any]], test_features: NDArray[Any]
) -> Floats:
    """HEST's probe: standardise, 256 principal components, ridge without tuning.

    The penalty is 100 / (n_components · n_genes), as in the code of the HEST benchmark; its ridge
    has no intercept, which changes no slope since components are centred. The training mean is
    added here so that the squared error means something.

    Parameters
    ----------
    features : sequence of float array, shape (n_spots, n_features)
        Image embeddings, one array a training section.
    targets : sequence of float array, shape (n_spots, n_genes)
        Expression, in the same order.
    test_features : float array, shape (n_test, n_features)
        Embeddings of the spots to predict.

    Returns
    -------
    float64 array, shape (n_test, n_genes)
        With fewer than 256 spots or features, as many components as there can be.

    Raises
    ------
    SectionError
        If arrays do not go together or hold what is not finite.
    """
    blocks = [[one] for one in features]
    _check(blocks, targets, [test_features])
    n_spots = sum(map(len, targets))
    n_components = min(HEST_COMPONENTS, n_spots, test_features.shape[1])
    alpha = 100 / (n_components * targets[0].shape[1])
    # HEST does not divide by the root of the width: its penalty is for plain standard scores.
    probe = DualRidge(blocks, targets, [test_features], n_components, divided=False)
    return probe.predict(alpha)


def tuned_ridge(
    blocks: Sequence[Sequence[NDArray[Any]]],
    targets: Sequence[NDArray[Any]],
    test_blocks: Sequence[NDArray[Any]],
) -> Floats:
    """A ridge on all blocks, its penalty chosen on the training sections.

    Every feature is standardised on the training sections, every block divided by the root of its
    width, so that blocks weigh alike.

    Parameters
    ----------
    blocks : sequence of sequence of float array, shape (n_spots, n_features of the block)
        One entry a training section: its blocks, such as tile, mean of the context, wider field.
    targets : sequence of float array, shape (n_spots, n_genes)
        Expression, in the same order.
    test_blocks : sequence of float array, shape (n_test, n_features of the block)
        The same blocks of the spots to predict.

    Returns
    -------
    float64 array, shape (n_test, n_genes)

    Raises
    ------
    SectionError
        If arrays do not go together, hold what is not finite, or there is one section only.
    StatisticsError
        If no gene has a correlation for any penalty.
    """
    alpha = tuned_alpha(blocks, targets)
    _check(blocks, targets, test_blocks)
    return DualRidge(blocks, targets, test_blocks).predict(alpha)


def tuned_alpha(blocks: Sequence[Sequence[NDArray[Any]]], targets: Sequence[NDArray[Any]]) -> float:
    """The penalty of `ALPHAS` that does best when each training section in turn is left out.

    Best is the highest Pearson r, taken over genes, then over sections. Scales are measured anew
    without the section that is left out.

    Parameters
    ----------
    blocks, targets
        See `tuned_ridge`.

    Raises
    ------
    SectionError
        If arrays do not go together, hold what is not finite, or there is one section only.
    StatisticsError
        If no gene has a correlation for any penalty.
    """
    if len(targets) < 2:
        raise SectionError(
            f"{len(targets)} training sections, where one is left out to choose a penalty",
            where="tuned ridge",
            fix="Give at least two.",
        )
    _check(blocks, targets, blocks[0])
    scores = []
    for left_out in range(len(targets)):
        others = [place for place in range(len(targets)) if place != left_out]
        ridge = DualRidge(
            [blocks[place] for place in others],
            [targets[place] for place in others],
            blocks[left_out],
        )
        r = np.stack([gene_correlation(targets[left_out], ridge.predict(a)) for a in ALPHAS])
        known = np.isfinite(r).all(axis=0)  # the same genes for every penalty
        if known.any():
            scores.append(r[:, known].mean(axis=1))
    if not scores:
        raise StatisticsError(
            "no gene varies in a section that was left out, so no penalty is better than another",
            where="tuned ridge",
        )
    return ALPHAS[int(np.mean(scores, axis=0).argmax())]


def mean_predictor(targets: Sequence[NDArray[Any]], n_test: int) -> Floats:
    """Every gene's mean over training spots, for every spot.

    Its correlation is not defined (NaN); its squared error is what any model has to beat.

    Parameters
    ----------
    targets : sequence of float array, shape (n_spots, n_genes)
        Expression, one array a training section.
    n_test : int
        Spots to predict.

    Returns
    -------
    float64 array, shape (n_test, n_genes)
    """
    mean = np.concatenate(targets).mean(axis=0, dtype=np.float64)
    return np.tile(mean, (n_test, 1))


def library_predictor(
    libraries: Sequence[NDArray[Any]], targets: Sequence[NDArray[Any]], test_library: NDArray[Any]
) -> Floats:
    """A line a gene on the logarithm of each spot's total count: a control, no rival.

    It sees the test spots' own counts, which no image model has. What it reaches shows how much of
    a target is depth of sequencing.

    Parameters
    ----------
    libraries : sequence of int array, shape (n_spots,)
        Total counts, one array a training section; see `targets.Target`.
    targets : sequence of float array, shape (n_spots, n_genes)
        Expression, in the same order.
    test_library : int array, shape (n_test,)
        Total counts of the spots to predict.

    Returns
    -------
    float64 array, shape (n_test, n_genes)

    Raises
    ------
    SectionError
        If a spot has no counts or arrays do not go together.
    """
    depth = np.concatenate(libraries).astype(np.float64)
    test = np.asarray(test_library, dtype=np.float64)
    y = np.concatenate(targets).astype(np.float64)
    if len(depth) != len(y):
        raise SectionError(f"{len(depth)} totals for {len(y)} spots", where="library size")
    if not (depth > 0).all() or not (test > 0).all():
        raise SectionError(
            "a spot has no counts: nothing was measured there",
            where="library size",
            fix="Leave such spots out of the evaluation.",
        )
    log_depth = np.log(depth)
    centred = log_depth - log_depth.mean()
    spread = centred @ centred
    slope = centred @ y / spread if spread > 0 else np.zeros(y.shape[1])
    predicted: Floats = y.mean(axis=0) + np.outer(np.log(test) - log_depth.mean(), slope)
    return predicted


def context_mean(features: NDArray[Any], rows: NDArray[Any]) -> NDArray[np.float32]:
    """Mean embedding of every spot's neighbourhood, the spot itself among it.

    Parameters
    ----------
    features : float array, shape (n_spots, n_features)
        Embeddings.
    rows : int array, shape (n_spots, k)
        Rows of neighbours, -1 where there is none; see `Neighbourhood.rows`.

    Returns
    -------
    float32 array, shape (n_spots, n_features)

    Raises
    ------
    SectionError
        If a row does not name the spot itself, or one that is not there.
    """
    n_spots = len(features)
    present = np.asarray(rows) >= 0
    itself = np.arange(n_spots)[:, None]
    if rows.shape[:1] != (n_spots,) or rows.max(initial=-1) >= n_spots:
        raise SectionError(
            f"neighbours of shape {rows.shape}, up to row {rows.max(initial=-1)}, "
            f"for {n_spots} spots",
            where="mean of the context",
        )
    if not (rows == itself).any(axis=1).all():
        raise SectionError(
            "a spot is not part of its own neighbourhood",
            where="mean of the context",
            fix="Give the rows that `neighbourhoods` finds.",
        )
    weights = present / present.sum(axis=1, keepdims=True)
    pairs = (np.broadcast_to(itself, rows.shape)[present], rows[present])
    mean = sparse.csr_array((weights[present], pairs), shape=(n_spots, n_spots))
    return np.asarray(mean @ np.asarray(features, dtype=np.float64), dtype=np.float32)


def _check(
    blocks: Sequence[Sequence[NDArray[Any]]],
    targets: Sequence[NDArray[Any]],
    test_blocks: Sequence[NDArray[Any]],
) -> None:
    if not targets or len(blocks) != len(targets):
        raise SectionError(
            f"features of {len(blocks)} sections, expression of {len(targets)}", where="baseline"
        )
    widths = [block.shape[1] for block in test_blocks]
    for place, (section, target) in enumerate(zip(blocks, targets, strict=True)):
        found = [block.shape[1] for block in section]
        if found != widths:
            problem = f"blocks are {found} features wide, those to predict from {widths}"
        elif any(len(block) != len(target) for block in section):
            problem = f"{[len(block) for block in section]} rows of features, {len(target)} spots"
        elif target.shape[1] != targets[0].shape[1]:
            problem = f"{target.shape[1]} genes, the first section has {targets[0].shape[1]}"
        elif not all(np.isfinite(one).all() for one in (*section, target)):
            problem = "a feature or an expression is not finite"
        else:
            continue
        raise SectionError(problem, where=f"baseline, training section {place}")
    if not all(np.isfinite(one).all() for one in test_blocks):
        raise SectionError("a feature is not finite", where="baseline, section to predict")
