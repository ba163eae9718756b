"""Ridge regression in its dual form, from products of spots with spots.

There are fewer spots than features, and one eigendecomposition serves every penalty. Features are
standardised on the training spots, expression is taken around its training mean.

References
----------
Saunders et al., Ridge regression learning algorithm in dual variables, ICML 1998.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy import linalg

Floats = NDArray[np.float64]


class DualRidge:
    """A ridge for every penalty, taught on some spots to predict others.

    Parameters
    ----------
    blocks : sequence of sequence of float array, shape (n_spots, n_features of the block)
        One entry a training section: its blocks of features.
    targets : sequence of float array, shape (n_spots, n_genes)
        In the same order.
    test_blocks : sequence of float array, shape (n_test, n_features of the block)
        The same blocks of the spots to predict.
    n_components : int, optional
        Keep this many leading principal components of all blocks together; all by default.
    divided : bool
        Whether a block is divided by the root of its width, constant features not counted.
    """

    def __init__(
        self,
        blocks: Sequence[Sequence[NDArray[Any]]],
        targets: Sequence[NDArray[Any]],
        test_blocks: Sequence[NDArray[Any]],
        n_components: int | None = None,
        *,
        divided: bool = True,
    ) -> None:
        y = np.concatenate(targets).astype(np.float64)
        self._mean = y.mean(axis=0)
        within = np.zeros((len(y), len(y)))
        across = np.zeros((len(test_blocks[0]), len(y)))
        for place, test_block in enumerate(test_blocks):
            train, test = _standardised(np.concatenate([one[place] for one in blocks]), test_block)
            width = train.shape[1] if divided else 1
            within += train @ train.T / width
            across += test @ train.T / width
        values, vectors = linalg.eigh(within, driver="evd", overwrite_a=True)
        # Ascending; the leading ones are the principal components' variances times n_spots.
        first = 0 if n_components is None else len(y) - n_components
        self._values = np.maximum(values[first:], 0)
        vectors = vectors[:, first:]
        self._across = across @ vectors
        self._along = vectors.T @ (y - self._mean)

    def predict(self, alpha: float) -> Floats:
        """Expression of the test spots under a penalty, shape (n_test, n_genes)."""
        shrunk = self._along / (self._values + alpha)[:, None]
        predicted: Floats = self._across @ shrunk + self._mean
        return predicted


def _standardised(train: NDArray[Any], test: NDArray[Any]) -> tuple[Floats, Floats]:
    """Both around the first one's mean, in its deviations; constant features are dropped."""
    train, test = train.astype(np.float64), test.astype(np.float64)
    varies = np.ptp(train, axis=0) > 0
    train, test = train[:, varies], test[:, varies]
    mean, deviation = train.mean(axis=0), train.std(axis=0)
    return (train - mean) / deviation, (test - mean) / deviation
