"""Read folders that Space Ranger wrote: Visium, and one bin size of Visium HD."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import h5py
import numpy as np
import pandas as pd
from numpy.typing import NDArray
from scipy import sparse

from storm_clinic.errors import SectionError
from storm_clinic.storm.paired import PairedSection
from storm_clinic.storm.section_reading import read_apart

VISIUM_SPOT_UM = 55.0
VISIUM_PITCH_UM = 100.0
# Spots are packed hexagonally: neighbours in a row differ by 2 in the array's column.
_COLUMN_UM = VISIUM_PITCH_UM / 2
_ROW_UM = VISIUM_PITCH_UM * np.sqrt(3) / 2
_DISAGREEMENT = 0.05
_COLUMNS = [
    "barcode",
    "in_tissue",
    "array_row",
    "array_col",
    "pxl_row_in_fullres",
    "pxl_col_in_fullres",
]
_EXPRESSION = "Gene Expression"


class _Matrix(NamedTuple):
    counts: Any
    barcodes: tuple[str, ...]
    symbols: tuple[str, ...]


def read_space_ranger(
    folder: str | Path,
    *,
    name: str,
    patient: str,
    image: str | Path | None = None,
    mpp: float | None = None,
) -> PairedSection:
    """Read ``outs/`` of a Visium run, or ``binned_outputs/square_008um/`` and the like.

    Microns per pixel come from the file of scale factors (Visium HD), else from the array itself:
    its pitch is 100 µm by manufacture, so the places of its spots in pixels give the scale. A value
    given by the caller must agree within 5%.

    Parameters
    ----------
    folder : str or Path
        Holds ``filtered_feature_bc_matrix.h5`` and ``spatial/``.
    name, patient : str
        Space Ranger knows neither.
    image : str or Path, optional
        The full-resolution picture that Space Ranger was given.
    mpp : float, optional
        Microns per pixel of that picture.

    Raises
    ------
    SectionError
        If a file is missing or damaged, the process that reads the matrix dies or hangs, no barcode
        is in both tables, or scales disagree.
    """
    folder = Path(folder)
    matrix = read_apart(_read_matrix, folder / "filtered_feature_bc_matrix.h5")
    places = _read_places(folder / "spatial")
    scale_path = folder / "spatial" / "scalefactors_json.json"
    scale = _read_scale(scale_path)
    in_tissue = places["in_tissue"].to_numpy() == 1
    rows = pd.Index(matrix.barcodes).get_indexer(pd.Index(places["barcode"]))
    kept = in_tissue & (rows >= 0)
    if not kept.any():
        raise SectionError("no barcode under tissue has both a place and counts", where=folder)
    centres = places[["pxl_col_in_fullres", "pxl_row_in_fullres"]].to_numpy(dtype=float)
    bin_um = scale.get("bin_size_um")
    stated = (
        _pitch_mpp(places, centres, scale_path)
        if bin_um is None
        else _number(scale, "microns_per_pixel", scale_path)
    )
    _check_mpp(mpp, stated, scale_path)
    hd = bin_um is not None
    spot_um = _number(scale, "bin_size_um", scale_path) if hd else VISIUM_SPOT_UM
    left_out = {
        "not under tissue": int((~in_tissue).sum()),
        "no counts": int((in_tissue & (rows < 0)).sum()),
        "no place on the image": len(matrix.barcodes) - int((rows >= 0).sum()),
    }
    return PairedSection(
        name=name,
        patient=patient,
        technology="visium_hd" if hd else "visium",
        grid="square" if hd else "hexagonal",
        spot_um=spot_um,
        pitch_um=spot_um if hd else VISIUM_PITCH_UM,
        image=None if image is None else Path(image),
        mpp=stated if mpp is None else mpp,
        centres_px=centres[kept],
        counts=matrix.counts[rows[kept]],
        symbols=matrix.symbols,
        spots=tuple(places["barcode"][kept]),
        left_out={why: n for why, n in left_out.items() if n},
    )


def _read_matrix(path: Path) -> _Matrix:
    try:
        with h5py.File(path, "r") as file:
            matrix = file["matrix"]
            n_genes, n_barcodes = (int(n) for n in matrix["shape"][:])
            # By barcode, then gene: what is CSC of genes x barcodes is CSR the other way round.
            parts = (matrix["data"][:], matrix["indices"][:], matrix["indptr"][:])
            counts = sparse.csr_array(parts, shape=(n_barcodes, n_genes))
            kinds = matrix["features/feature_type"].asstr()[:]
            names = matrix["features/name"].asstr()[:]
            barcodes = tuple(matrix["barcodes"].asstr()[:])
    except (OSError, KeyError, ValueError, TypeError) as error:
        raise SectionError(f"is no matrix of Space Ranger: {error}", where=path) from error
    genes = np.flatnonzero(kinds == _EXPRESSION)  # not antibodies
    return _Matrix(counts[:, genes], barcodes, tuple(names[genes]))


def _read_places(folder: Path) -> pd.DataFrame:
    readers: dict[str, Callable[[Path], pd.DataFrame]] = {
        "tissue_positions.parquet": pd.read_parquet,
        "tissue_positions.csv": lambda path: pd.read_csv(path),
        "tissue_positions_list.csv": lambda path: pd.read_csv(path, header=None, names=_COLUMNS),
    }
    path = next((folder / file for file in readers if (folder / file).is_file()), None)
    if path is None:
        raise SectionError(f"holds none of {', '.join(readers)}", where=folder)
    try:
        table = readers[path.name](path)
    except (OSError, ValueError) as error:
        raise SectionError(f"cannot be read as a table: {error}", where=path) from error
    absent = [column for column in _COLUMNS if column not in table.columns]
    if absent:
        raise SectionError(f"has no column {', '.join(absent)}", where=path)
    if table["barcode"].duplicated().any():
        raise SectionError("a barcode occurs twice", where=path)
    return table


def _read_scale(path: Path) -> Mapping[str, Any]:
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise SectionError(f"cannot be read: {error}", where=path) from error
    if not isinstance(found, dict):
        raise SectionError("is no table of scale factors", where=path)
    return found


def _number(scale: Mapping[str, Any], key: str, path: Path) -> float:
    value = scale.get(key)
    if isinstance(value, bool) or not isinstance(value, int | float):
        raise SectionError(f"states no {key}", where=path)
    return float(value)


def _pitch_mpp(places: pd.DataFrame, centres: NDArray[np.float64], path: Path) -> float:
    """Microns per pixel by fitting the array's own coordinates in µm to pixels."""
    array = places[["array_col", "array_row"]].to_numpy(dtype=float) * (_COLUMN_UM, _ROW_UM)
    array, pixels = array - array.mean(axis=0), centres - centres.mean(axis=0)
    if len(array) < 3 or np.linalg.matrix_rank(array) < 2:
        raise SectionError("too few spots to measure the scale of the image", where=path)
    linear, *_ = np.linalg.lstsq(array, pixels, rcond=None)
    across = np.linalg.svd(linear, compute_uv=False)  # pixels per µm along two axes
    if across[0] > across[1] * (1 + _DISAGREEMENT):
        raise SectionError("the places of the spots form no Visium array", where=path)
    return float(1 / np.sqrt(across[0] * across[1]))


def _check_mpp(given: float | None, stated: float, path: Path) -> None:
    if given is not None and abs(given / stated - 1) > _DISAGREEMENT:
        raise SectionError(
            f"{given} µm per pixel were given, but the spots lie at {stated:.4g}",
            where=path,
            fix="Give the picture, and the scale, that Space Ranger was given.",
        )
