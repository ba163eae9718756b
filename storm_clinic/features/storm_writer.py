"""Write one STORM file: once, atomically, the same bytes for the same input.

The format is specified in docs/formats.md; forms and guarantees are those of feature files.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import h5py
import numpy as np
from numpy.typing import NDArray

from storm_clinic.errors import FeatureError
from storm_clinic.features.file_writer import (
    new_hdf5,
    package_version,
    set_attributes,
    write_array,
)
from storm_clinic.features.slide_features import Array, digest_rows, largest_magnitude
from storm_clinic.features.storm_contract import StormContract
from storm_clinic.features.storm_expression import EXPRESSION_UNIT
from storm_clinic.features.storm_header import FORMAT, FORMAT_VERSION
from storm_clinic.files import atomic_write

CHUNK = (1024, 64)  # tiles and genes: for a map of one gene 64 are read, not thousands
_F16_MAX = float(np.finfo(np.float16).max)


@dataclass(frozen=True, eq=False)
class ImputedGenes:
    """Genes that are imputed, each with its evidence.

    Attributes
    ----------
    symbols : tuple of str
        HGNC symbols in the checkpoint's order.
    places : int64 array, shape (n_genes,)
        Their places in the checkpoint's vocabulary.
    r, lower, upper : float32 array, shape (n_genes,)
        Held-out correlation and its interval; NaN where a gene was not evaluated.
    how : str
        What was held out.
    min_r : float or None
        What ``lower`` exceeds in all of them; None where no evidence was asked for.
    vocabulary_digest : str
        Of the checkpoint's vocabulary.
    """

    symbols: tuple[str, ...]
    places: NDArray[np.int64]
    r: NDArray[np.float32]
    lower: NDArray[np.float32]
    upper: NDArray[np.float32]
    how: str
    min_r: float | None
    vocabulary_digest: str


@dataclass(frozen=True, eq=False)
class SlideStorm:
    """What STORM made of one slide.

    Attributes
    ----------
    slide_id : str
    spots : float array, shape (n_tiles, width)
        Embedding of each tile.
    slide : float array, shape (width,)
        Embedding of the slide.
    coords : int64 array, shape (n_tiles, 2)
        Top-left corners, level-0 px.
    source_digest : str
        Of the tile features it was made from.
    slide_mpp : float
        µm per level-0 px.
    slide_digest, slide_mpp_source, vendor : str or None
        Of the slide, as in feature files.
    expression : float array, shape (n_genes,), or None
        Mean over the tiles; None where no gene is imputed.
    tiles : iterable of float arrays, shape (n_rows, n_genes), or None
        Expression of the tiles in order, in blocks; None where it is not stored.
    domain_distance, share_outside : float or None
        How far the tiles lie from the training data; None where the checkpoint does not know.
    domain_warning : str or None
        Where the slide lies outside.
    """

    slide_id: str
    spots: Array
    slide: Array
    coords: NDArray[np.int64]
    source_digest: str
    slide_mpp: float
    slide_digest: str | None = None
    slide_mpp_source: str | None = None
    vendor: str | None = None
    expression: Array | None = None
    tiles: Iterable[Array] | None = None
    domain_distance: float | None = None
    share_outside: float | None = None
    domain_warning: str | None = None


def write_storm_file(
    path: Path, slide: SlideStorm, contract: StormContract, genes: ImputedGenes | None
) -> None:
    """Write one slide; blocks of expression are taken one at a time and held no longer.

    Raises
    ------
    FeatureError
        If shapes do not fit the contract, or a value is not finite or does not fit float16.
    StorageError
        If the disk is full or the folder may not be written.
    """
    _check(slide, contract, genes)
    with atomic_write(path) as part, new_hdf5(part) as file:
        set_attributes(file, _attributes(slide, contract))
        write_array(file, "spots", _half(slide.spots, f"slide {slide.slide_id}: spots"))
        write_array(file, "slide", np.ascontiguousarray(slide.slide, dtype="<f4"))
        write_array(file, "coords", np.ascontiguousarray(slide.coords, dtype="<i8"))
        if genes is not None:
            _write_expression(file.create_group("expression"), slide, genes)


def _check(slide: SlideStorm, contract: StormContract, genes: ImputedGenes | None) -> None:
    n_tiles, where = len(slide.spots), f"slide {slide.slide_id}"
    n_genes = 0 if genes is None else len(genes.symbols)
    expected: list[tuple[str, Array | None, tuple[int, ...]]] = [
        ("spots", slide.spots, (n_tiles, contract.width)),
        ("slide", slide.slide, (contract.width,)),
        ("coords", slide.coords, (n_tiles, 2)),
        ("expression", slide.expression, (n_genes,)),
    ]
    for name, array, shape in expected:
        if array is not None and (array.shape != shape or not np.isfinite(array).all()):
            raise FeatureError(
                f"must be finite {shape}, is {array.shape}", where=f"{where}: {name}"
            )
    if n_tiles == 0:
        raise FeatureError("there is no tile", where=where)
    if n_genes != contract.n_genes or (slide.expression is None) != (n_genes == 0):
        raise FeatureError(
            f"{n_genes} genes, but the contract says {contract.n_genes}", where=where
        )
    if (slide.tiles is not None) != contract.per_tile:
        raise FeatureError("expression of tiles is not as the contract says", where=where)


def _write_expression(group: h5py.Group, slide: SlideStorm, genes: ImputedGenes) -> None:
    threshold = {} if genes.min_r is None else {"min_r": float(genes.min_r)}
    facts = {"unit": EXPRESSION_UNIT, "origin": "imputed from H&E", "heldout": genes.how}
    set_attributes(group, facts | threshold)
    names = np.array([symbol.encode("utf-8") for symbol in genes.symbols], dtype="S")
    symbols = write_array(group, "genes", names)
    set_attributes(symbols, {"vocabulary_digest": genes.vocabulary_digest})
    evidence = {"": genes.r, "_lower": genes.lower, "_upper": genes.upper}
    for suffix, values in evidence.items():
        write_array(group, f"heldout_r{suffix}", np.ascontiguousarray(values, dtype="<f4"))
    assert slide.expression is not None  # `_check` holds it against the genes
    write_array(group, "slide", np.ascontiguousarray(slide.expression, dtype="<f4"))
    if slide.tiles is not None:
        shape = (len(slide.spots), len(genes.symbols))
        dataset = group.create_dataset(
            "values",
            shape,
            dtype="<f2",
            chunks=tuple(min(pair) for pair in zip(shape, CHUNK, strict=True)),
            track_times=False,
        )
        where = f"slide {slide.slide_id}: expression"
        blocks = _stored(dataset, slide.tiles, where)
        set_attributes(dataset, {"sha256": digest_rows(blocks, dataset.dtype, shape)})


def _stored(dataset: h5py.Dataset, blocks: Iterable[Array], where: str) -> Iterator[Array]:
    """Write blocks of rows as they come, and hand them on."""
    first = 0
    for block in blocks:
        rows = _half(block, where)
        last = first + len(rows)
        if rows.shape[1:] != dataset.shape[1:] or last > len(dataset):
            raise FeatureError(f"{rows.shape} at row {first} of {dataset.shape}", where=where)
        dataset[first:last] = rows
        first = last
        yield rows
    if first != len(dataset):
        raise FeatureError(f"{first} rows for {len(dataset)} tiles", where=where)


def _half(values: Array, where: str) -> Array:
    largest = largest_magnitude(values)
    if not largest <= _F16_MAX:  # NaN compares with nothing
        raise FeatureError(f"the value {largest:g} does not fit float16", where=where)
    return np.ascontiguousarray(values, dtype="<f2")


def _attributes(slide: SlideStorm, contract: StormContract) -> dict[str, Any]:
    found = {
        "format": FORMAT,
        "format_version": FORMAT_VERSION,
        "storm_clinic_version": package_version(),
        "slide_id": slide.slide_id,
        "slide_digest": slide.slide_digest,
        "slide_mpp": slide.slide_mpp,
        "slide_mpp_source": slide.slide_mpp_source,
        "vendor": slide.vendor,
        "provenance": "extracted",
        "checkpoint": contract.checkpoint,
        "checkpoint_digest": contract.checkpoint_digest,
        "source_digest": slide.source_digest,
        "encoder": contract.encoder,
        "encoder_digest": contract.encoder_digest,
        "mpp": contract.mpp,
        "tile_px": contract.tile_px,
        "overlap_px": contract.overlap_px,
        "tile_um": contract.mpp * contract.tile_px,
        "licence": contract.licence,
        "domain_distance": slide.domain_distance,
        "share_outside": slide.share_outside,
        "domain_warning": slide.domain_warning,
    }
    return {name: value for name, value in found.items() if value is not None}
