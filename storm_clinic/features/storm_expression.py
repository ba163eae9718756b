"""Imputed expression in one STORM file; the format is specified in docs/formats.md."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path

import h5py
import numpy as np
import pandas as pd
from numpy.typing import NDArray

from storm_clinic.errors import FeatureError
from storm_clinic.features.guarded_file import (
    AGAIN,
    attributes_of,
    check_links,
    dataset_of,
    opened,
    text_of,
    values_of,
)
from storm_clinic.features.slide_features import Array, digest_rows

EXPRESSION_UNIT = "log1p of counts per 10,000"
EVIDENCE = 0.0  # genes whose held-out correlation may as well be zero tell nothing
_ROWS = 1024  # tiles read at once; a file may impute thousands of genes, and few have evidence
_HELDOUT = ("heldout_r", "heldout_r_lower", "heldout_r_upper")
_PER_GENE = {"slide": "f", "genes": "S"} | dict.fromkeys(_HELDOUT, "f")
_REQUIRED = ("slide", "genes", "heldout_r_lower")


def read_genes(path: Path) -> pd.DataFrame:
    """Every imputed gene of a file with its evidence.

    Returns
    -------
    DataFrame, one row a gene in the file's order, the symbol as index
        ``expression``: mean over the slide's tiles, log1p of counts per 10,000.
        ``heldout_r, heldout_r_lower, heldout_r_upper``: correlation of imputed and measured
        expression on tissue that training had not seen, and its interval; NaN where it was
        not measured, or the file does not say.

    Raises
    ------
    FeatureError
        If the file is absent or damaged, imputes nothing, or a value is not finite.
    """
    with opened(path) as file:
        group = _expression_group(file, path)
        present = [name for name in _PER_GENE if name in group or name in _REQUIRED]
        arrays: dict[str, Array] = {
            name: values_of(
                dataset_of(group, path, name, (_PER_GENE[name], 1)),
                f"{path}: expression/{name}",
            )
            for name in present
        }
        symbols = [name.decode("utf-8") for name in arrays.pop("genes").tolist()]
    if {len(array) for array in arrays.values()} != {len(symbols)}:
        raise FeatureError("lengths differ", where=f"{path}: expression", fix=AGAIN)
    require_finite(arrays["slide"], f"{path}: expression/slide")
    table = pd.DataFrame(
        {name: array.astype(np.float64) for name, array in arrays.items()},
        index=pd.Index(symbols, dtype=object),
    )
    table = table.rename(columns={"slide": "expression"})
    return table.reindex(columns=["expression", *_HELDOUT])


def tile_values(file: h5py.File, path: Path) -> h5py.Dataset:
    """The dataset of imputed expression of tiles, (n_tiles, n_genes); its values are not read.

    Raises
    ------
    FeatureError
        If the file imputes nothing, or holds slide means alone.
    """
    group = _expression_group(file, path)
    if "values" not in group:
        raise FeatureError(
            "holds the slide's mean expression alone, not that of its tiles",
            where=path,
            fix="Delete the folder and make the files anew with "
            "'storm-clinic extract --storm CHECKPOINT --per-tile'.",
        )
    return dataset_of(group, path, "values", ("<f2", 2), chunked=True)


def read_columns(dataset: h5py.Dataset, columns: NDArray[np.int64], path: Path) -> Array:
    """Some genes of all tiles, while the values of every gene are held against their digest.

    Returns
    -------
    float16 array, shape (n_tiles, len(columns))

    Raises
    ------
    FeatureError
        If the values are not those that were written, or one that is kept is not finite.
    """
    where = f"{path}: expression/values"
    kept = np.empty((len(dataset), len(columns)), dtype="<f2")
    stated = text_of(attributes_of(dataset, where), where, "sha256")
    if digest_rows(_kept(dataset, columns, kept), dataset.dtype, dataset.shape) != stated:
        raise FeatureError(
            "its values are not those that were written (SHA-256 differs)", where=where, fix=AGAIN
        )
    require_finite(kept, where)
    return kept


def _kept(dataset: h5py.Dataset, columns: NDArray[np.int64], kept: Array) -> Iterator[Array]:
    """All values in blocks of tiles; of each some columns are kept."""
    for first in range(0, len(dataset), _ROWS):
        block: Array = dataset[first : first + _ROWS]
        kept[first : first + len(block)] = block[:, columns]
        yield block


def _expression_group(file: h5py.File, path: Path) -> h5py.Group:
    if "expression" not in file:
        raise FeatureError(
            "imputes no expression: its checkpoint has no evidence for any gene", where=path
        )
    check_links(file, path)
    group = file["expression"]
    if not isinstance(group, h5py.Group):
        raise FeatureError("must be a group", where=f"{path}: expression", fix=AGAIN)
    check_links(group, path)
    return group


def mean_over_slides(
    expression: Sequence[pd.Series[float]], n_tiles: Sequence[int]
) -> NDArray[np.float64]:
    """Imputed expression of a patient, of their slides' by the slides' tiles.

    Parameters
    ----------
    expression : sequence of Series, each of the same genes
        As `StormStore.expression` gives it.
    n_tiles : sequence of int
        Of each slide.

    Returns
    -------
    float64 array, shape (n_genes,)
    """
    mean: NDArray[np.float64] = np.average(expression, axis=0, weights=n_tiles)
    return mean


def require_finite(values: Array, where: str) -> None:
    """Refuse values that hold NaN or infinity, naming where they lie."""
    if not np.isfinite(values).all():
        raise FeatureError("holds NaN or infinity", where=where, fix="Make the file again.")
