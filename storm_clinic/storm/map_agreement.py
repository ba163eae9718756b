"""How well imputed expression agrees with measured, gene by gene, over the spots of one section.

Everywhere a gene's result is NaN, not 0, where the number is not defined: a map without variation,
or a value that is not finite (a gene outside the panel).

References
----------
Jaume et al., HEST-1k, NeurIPS 2024 (Pearson r a gene).
Wang et al., IEEE Trans. Image Process. 13 (2004) 600-612 (structural similarity).
Moran, Biometrika 37 (1950) 17-23 (I).
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage, sparse

from storm_clinic.errors import SectionError
from storm_clinic.storm.array_places import checked_places

# Wang et al.: a round Gaussian window of 11 x 11 with this deviation; constants for a range of 1.
_SIGMA, _REACH = 1.5, 5
_KERNEL = np.exp(-0.5 * (np.arange(-_REACH, _REACH + 1) / _SIGMA) ** 2)
_KERNEL /= _KERNEL.sum()
_C1, _C2 = 0.01**2, 0.03**2


def gene_correlation(measured: NDArray[Any], imputed: NDArray[Any]) -> NDArray[np.float64]:
    """Pearson correlation of measured and imputed values over spots, for every gene.

    Parameters
    ----------
    measured, imputed : float array, shape (n_spots, n_genes)
        Expression of the same spots, in one unit.

    Returns
    -------
    float64 array, shape (n_genes,)
        NaN where either is constant or not finite.

    Raises
    ------
    SectionError
        If shapes differ.
    """
    x, y = _pair(measured, imputed)
    varies = _varies(x) & _varies(y)
    r = np.full(x.shape[1], np.nan)
    x, y = x[:, varies], y[:, varies]
    x, y = x - x.mean(axis=0), y - y.mean(axis=0)
    x, y = x / np.linalg.norm(x, axis=0), y / np.linalg.norm(y, axis=0)
    r[varies] = np.clip((x * y).sum(axis=0), -1, 1)
    return r


def mean_squared_error(measured: NDArray[Any], imputed: NDArray[Any]) -> NDArray[np.float64]:
    """Mean of squared differences over spots, for every gene.

    Parameters
    ----------
    measured, imputed : float array, shape (n_spots, n_genes)
        Expression of the same spots, in one unit.

    Returns
    -------
    float64 array, shape (n_genes,)
        In the square of their unit; NaN where a value is NaN.

    Raises
    ------
    SectionError
        If shapes differ.
    """
    x, y = _pair(measured, imputed)
    error: NDArray[np.float64] = np.square(x - y).mean(axis=0)
    return error


def map_ssim(
    measured: NDArray[Any], imputed: NDArray[Any], array_rows: NDArray[Any]
) -> NDArray[np.float64]:
    """Structural similarity of the two maps on the spots' grid, for every gene.

    Both maps are scaled by the measured one's minimum and range, so that a shift or a stretch of
    what was imputed costs. Windows stand on measured spots and hold measured spots only: where
    tissue ends or a spot is missing, the Gaussian weights of the others are scaled up to a sum
    of 1. A spot without another in its window has no structure and is not counted.

    Parameters
    ----------
    measured, imputed : float array, shape (n_spots, n_genes)
        Expression of the same spots, in one unit.
    array_rows : int array, shape (n_spots, 2)
        Each spot's place (row, column) on the array; see `array_places.grid_places`.

    Returns
    -------
    float64 array, shape (n_genes,)
        1 for equal maps. NaN where the measured map is constant, a value is not finite, or no
        spot has another in its window.

    Raises
    ------
    SectionError
        If shapes differ or two spots have one place.
    """
    x, y = _pair(measured, imputed)
    places = checked_places(array_rows, len(x))
    similarity = np.full(x.shape[1], np.nan)
    usable = _varies(x) & np.isfinite(y).all(axis=0)
    if not usable.any():
        return similarity
    x, y = x[:, usable], y[:, usable]
    low, reach = x.min(axis=0), np.ptp(x, axis=0)
    x, y = (x - low) / reach, (y - low) / reach
    window = _Window(places)
    mean_x, mean_y = window.mean(x), window.mean(y)
    # Rounding can leave a variance of a flat window just below 0.
    var_x = np.maximum(window.mean(x * x) - mean_x**2, 0)
    var_y = np.maximum(window.mean(y * y) - mean_y**2, 0)
    covariance = window.mean(x * y) - mean_x * mean_y
    luminance = (2 * mean_x * mean_y + _C1) / (mean_x**2 + mean_y**2 + _C1)
    structure = (2 * covariance + _C2) / (var_x + var_y + _C2)
    if window.has_others.any():
        similarity[usable] = (luminance * structure)[window.has_others].mean(axis=0)
    return similarity


def morans_i(values: NDArray[Any], neighbours: NDArray[Any]) -> NDArray[np.float64]:
    """Moran's I of every gene: is a spot like its neighbours?

    I = n / W · Σ_ij w_ij z_i z_j / Σ_i z_i², with z the deviation from the mean, w_ij 1 where j is
    among the neighbours of i and otherwise 0, and W the sum of w. Without any pattern it is
    -1 / (n - 1) on average.

    Parameters
    ----------
    values : float array, shape (n_spots, n_genes)
        Measured or imputed expression.
    neighbours : int array, shape (n_spots, k)
        Rows of each spot's neighbours, -1 where there is none, such as `Neighbourhood.rows` of
        side 3. The spot itself is no neighbour and is passed over.

    Returns
    -------
    float64 array, shape (n_genes,)
        NaN where the values are constant or not finite, and everywhere if no spot has a neighbour.

    Raises
    ------
    SectionError
        If the arrays do not go together.
    """
    table = np.asarray(values, dtype=np.float64)
    weights = _binary_weights(np.asarray(neighbours), len(table))
    found = np.full(table.shape[1], np.nan)
    varies = _varies(table)
    if not weights.nnz:
        return found
    z = table[:, varies]
    z = z - z.mean(axis=0)
    z = z / np.linalg.norm(z, axis=0)
    found[varies] = len(z) / weights.nnz * (z * (weights @ z)).sum(axis=0)
    return found


def kept_morans_i(measured: NDArray[Any], imputed: NDArray[Any]) -> float:
    """Correlation over genes of measured and imputed Moran's I: are patterned genes patterned?

    Parameters
    ----------
    measured, imputed : float array, shape (n_genes,)
        `morans_i` of both maps; NaN where it is not defined.

    Returns
    -------
    float
        NaN with fewer than three genes whose I is defined in both; two points always lie on a line.
    """
    both = np.stack([measured, imputed])
    both = both[:, np.isfinite(both).all(axis=0)]
    if both.shape[1] < 3:
        return float("nan")
    return float(gene_correlation(both[0][:, None], both[1][:, None])[0])


class _Window:
    """Gaussian means around every spot over the spots that were measured."""

    def __init__(self, places: NDArray[np.int64]) -> None:
        low = places.min(axis=0)
        self._row, self._column = (places - low).T
        self._shape = tuple(places.max(axis=0) - low + 1)
        self._weight = self._sums(np.ones((len(places), 1)))
        # Alone, a spot carries the weight of the window's middle.
        middle = _KERNEL[_REACH] ** 2
        self.has_others: NDArray[np.bool_] = self._weight[:, 0] > middle * (1 + 1e-6)

    def mean(self, values: NDArray[np.float64]) -> NDArray[np.float64]:
        """Weighted mean around every spot, shape (n_spots, n_genes)."""
        return self._sums(values) / self._weight

    def _sums(self, values: NDArray[np.float64]) -> NDArray[np.float64]:
        image = np.zeros((*self._shape, values.shape[1]))
        image[self._row, self._column] = values
        for axis in (0, 1):  # a Gaussian is the product of one along rows and one along columns
            image = ndimage.correlate1d(image, _KERNEL, axis=axis, mode="constant")
        sums: NDArray[np.float64] = image[self._row, self._column]
        return sums


def _binary_weights(neighbours: NDArray[Any], n_spots: int) -> sparse.csr_array:
    if neighbours.ndim != 2 or len(neighbours) != n_spots:
        raise SectionError(
            f"neighbours of shape {neighbours.shape} for {n_spots} spots", where="Moran's I"
        )
    if neighbours.size and not (neighbours.min() >= -1 and neighbours.max() < n_spots):
        raise SectionError(
            f"a neighbour is row {neighbours.max()} of {n_spots}, or below -1", where="Moran's I"
        )
    spot = np.broadcast_to(np.arange(n_spots)[:, None], neighbours.shape)
    is_one = (neighbours >= 0) & (neighbours != spot)
    pairs = (spot[is_one], neighbours[is_one])
    weights = sparse.csr_array((np.ones(is_one.sum()), pairs), shape=(n_spots, n_spots))
    weights.sum_duplicates()
    weights.data[:] = 1.0
    return weights


def _varies(values: NDArray[np.float64]) -> NDArray[np.bool_]:
    """Columns that are finite and not constant; no variance, as rounding leaves one to 0.1s."""
    finite = np.isfinite(values).all(axis=0)
    varies: NDArray[np.bool_] = np.zeros(values.shape[1], dtype=np.bool_)
    varies[finite] = np.ptp(values[:, finite], axis=0) > 0
    return varies


def _pair(
    measured: NDArray[Any], imputed: NDArray[Any]
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    x, y = np.asarray(measured, dtype=np.float64), np.asarray(imputed, dtype=np.float64)
    if x.ndim != 2 or x.shape != y.shape or not len(x):
        raise SectionError(
            f"measured {x.shape} and imputed {y.shape} must be one table (n_spots, n_genes)",
            where="agreement of maps",
        )
    return x, y
