"""STORM files: contextual embeddings of tiles and imputed expression, one file a slide, for models.

The format is specified in docs/formats.md; the files lie in ``features/<cohort>/<checkpoint>/``.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import h5py
import numpy as np
import pandas as pd
from numpy.typing import NDArray

from storm_clinic.errors import ContractMismatch, FeatureError
from storm_clinic.features.contract import FeatureContract
from storm_clinic.features.guarded_file import (
    AGAIN,
    attributes_of,
    check_links,
    dataset_of,
    number_of,
    opened,
    text_of,
    values_of,
)
from storm_clinic.features.slide_features import Array, SlideFeatures, digest_rows
from storm_clinic.files import safe_name
from storm_clinic.licence_terms import joined

FORMAT = "storm_clinic/slide-storm"
FORMAT_VERSION = 1
EXPRESSION_UNIT = "log1p of counts per 10,000"
_ROWS = 1024  # tiles read at once; a file may impute thousands of genes, and few have evidence
EVIDENCE = 0.0  # genes whose held-out correlation may as well be zero tell nothing


@dataclass(frozen=True)
class StormHeader:
    """What a STORM file says about itself."""

    slide_id: str
    n_tiles: int
    contract: FeatureContract
    spots_digest: str
    coords_digest: str | None
    slide_digest: str | None
    slide_mpp: float | None
    source_digest: str | None
    domain_distance: float | None
    share_outside: float | None
    domain_warning: str | None


@dataclass(frozen=True)
class StormStore:
    """STORM files of one cohort from one checkpoint.

    Attributes
    ----------
    folder : Path
    contract : FeatureContract
        What all files have in common; the encoder is the checkpoint.
    headers : mapping of slide id to StormHeader
    """

    folder: Path
    contract: FeatureContract
    headers: Mapping[str, StormHeader]

    @classmethod
    def open(cls, folder: str | Path) -> StormStore:
        """Open a folder of STORM files; reads what each says about itself.

        Raises
        ------
        FeatureError
            If there is none, or one is damaged; names file and key.
        ContractMismatch
            If two files were made in different ways.
        """
        folder = Path(folder)
        headers = {path.stem: read_header(path) for path in sorted(folder.glob("*.h5"))}
        if not headers:
            raise FeatureError(
                "holds no STORM file", where=folder, fix="Check features.storm in the study."
            )
        contract = next(iter(headers.values())).contract
        for slide_id, header in headers.items():
            contract.require_same(header.contract, where=folder / f"{slide_id}.h5")
        licence = joined(*(header.contract.licence for header in headers.values()))
        return cls(folder, replace(contract, licence=licence), headers)

    def index(self) -> pd.DataFrame:
        """One row a file, as `FeatureStore.index` has it."""
        columns = ["slide_id", "n_tiles", "slide_digest", "slide_mpp", "features_digest"]
        rows = [
            (h.slide_id, h.n_tiles, h.slide_digest, h.slide_mpp, h.spots_digest, h.coords_digest)
            for h in self.headers.values()
        ]
        return pd.DataFrame(rows, columns=[*columns, "coords_digest"]).assign(problem=None)

    def read(self, slide_id: str) -> SlideFeatures:
        """The embeddings of one slide's tiles, checked against their digest.

        Raises
        ------
        FeatureError
            If the file is absent or damaged, or a value is not finite.
        """
        path = self._path(slide_id)
        with opened(path) as file:
            spots = values_of(dataset_of(file, path, "spots", ("<f2", 2)), f"{path}: spots")
            coords = None
            if "coords" in file:
                dataset = dataset_of(file, path, "coords", ("<i8", 2))
                coords = values_of(dataset, f"{path}: coords")
        _require_finite(spots, f"{path}: spots")
        header = self.headers[slide_id]
        return SlideFeatures(
            slide_id,
            spots,
            coords,
            slide_digest=header.slide_digest,
            slide_mpp=header.slide_mpp,
        )

    def genes(self, slide_id: str) -> pd.DataFrame:
        """Every imputed gene of a slide with its evidence.

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
        path = self._path(slide_id)
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
        _require_finite(arrays["slide"], f"{path}: expression/slide")
        table = pd.DataFrame(
            {name: array.astype(np.float64) for name, array in arrays.items()},
            index=pd.Index(symbols, dtype=object),
        )
        table = table.rename(columns={"slide": "expression"})
        return table.reindex(columns=["expression", *_HELDOUT])

    def expression(self, slide_id: str, *, min_r: float = EVIDENCE) -> pd.Series[float]:
        """Mean imputed expression of one slide by gene, of genes with evidence.

        A gene has evidence where the lower bound of its held-out correlation exceeds ``min_r``.
        Errors as `genes`.
        """
        table = self.genes(slide_id)
        return table.loc[table["heldout_r_lower"] > min_r, "expression"].rename(None)

    def gene_maps(self, slide_id: str, genes: Sequence[str]) -> pd.DataFrame:
        """Imputed expression of some genes on every tile, log1p of counts per 10,000.

        All genes are read to hold them against their digest; what is asked for is kept.

        Returns
        -------
        DataFrame, float32, shape (n_tiles, n_genes)
            Rows in the order of `read`, columns as asked for.

        Raises
        ------
        FeatureError
            If the file is absent or damaged, does not hold a gene, or holds slide means alone.
        """
        path = self._path(slide_id)
        place_of = {gene: place for place, gene in enumerate(self.genes(slide_id).index)}
        lacking = [gene for gene in genes if gene not in place_of]
        if lacking:
            raise FeatureError(f"does not impute {', '.join(lacking)}", where=path)
        with opened(path) as file:
            columns = np.array([place_of[gene] for gene in genes], dtype=np.int64)
            values = read_columns(tile_values(file, path), columns, path).astype(np.float32)
        return pd.DataFrame(values, columns=list(genes))

    def domain_warnings(self) -> dict[str, str]:
        """Slides that look unlike the checkpoint's training data, and what was seen."""
        return {
            slide_id: header.domain_warning
            for slide_id, header in self.headers.items()
            if header.domain_warning is not None
        }

    def mean_expression(self, slides_of_patients: Sequence[Sequence[str]]) -> pd.DataFrame:
        """Imputed expression of each patient: the mean over their slides, weighted by tiles.

        Returns
        -------
        DataFrame, float64, shape (n_patients, n_genes)
            Rows in the given order; NaN for a patient without a slide.

        Raises
        ------
        ContractMismatch
            If two files impute different genes.
        """
        genes: pd.Index[str] | None = None
        rows = []
        for slides in slides_of_patients:
            found = [self.expression(slide_id) for slide_id in slides]
            for slide_id, one in zip(slides, found, strict=True):
                genes = one.index if genes is None else genes
                if not genes.equals(one.index):
                    raise ContractMismatch(
                        "imputes other genes than the files before",
                        where=self._path(slide_id),
                        fix="Make all STORM files with one checkpoint.",
                    )
            weights = [self.headers[slide_id].n_tiles for slide_id in slides]
            rows.append(mean_over_slides(found, weights) if found else None)
        width = 0 if genes is None else len(genes)
        values = [np.full(width, np.nan) if row is None else row for row in rows]
        return pd.DataFrame(np.array(values).reshape(len(rows), width), columns=genes)

    def _path(self, slide_id: str) -> Path:
        return self.folder / f"{safe_name(slide_id, what='slide_id')}.h5"


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


def read_header(path: Path) -> StormHeader:
    """What one file says about itself; its values are not read.

    Raises
    ------
    FeatureError
        If it is absent, damaged, of another version, or holds another slide.
    """
    with opened(path) as file:
        known = attributes_of(file, path)
        if text_of(known, path, "format", optional=True) != FORMAT:
            raise FeatureError("not a STORM file", where=path)
        if number_of(known, path, "format_version") != FORMAT_VERSION:
            raise FeatureError(
                f"its format_version is not {FORMAT_VERSION}, the one this version reads",
                where=path,
                fix="Update storm-clinic.",
            )
        check_links(file, path)
        spots = dataset_of(file, path, "spots", ("<f2", 2))
        coords = dataset_of(file, path, "coords", ("<i8", 2)) if "coords" in file else None
        if coords is not None and len(coords) != len(spots):
            raise FeatureError(
                f"{len(coords)} rows, but spots has {len(spots)}", where=f"{path}: coords"
            )
        slide_id = text_of(known, path, "slide_id")
        if slide_id != path.stem:
            raise FeatureError(f"holds slide {slide_id!r}, not {path.stem!r}", where=path)
        tile_px = number_of(known, path, "tile_px", optional=True)
        contract = FeatureContract(
            encoder=path.parent.name,
            encoder_digest=text_of(known, path, "checkpoint_digest"),
            width=spots.shape[1],
            mpp=number_of(known, path, "mpp", optional=True),
            tile_px=None if tile_px is None else int(tile_px),
            overlap_px=int(number_of(known, path, "overlap_px", optional=True) or 0),
            provenance=str(text_of(known, path, "provenance")),
            licence=text_of(known, path, "licence", optional=True),
        )
        digest = text_of(attributes_of(spots, path), path, "sha256")
        return StormHeader(
            slide_id=path.stem,
            n_tiles=len(spots),
            contract=contract,
            spots_digest=str(digest),
            coords_digest=None
            if coords is None
            else text_of(attributes_of(coords, path), path, "sha256"),
            slide_digest=text_of(known, path, "slide_digest", optional=True),
            slide_mpp=number_of(known, path, "slide_mpp", optional=True),
            source_digest=text_of(known, path, "source_digest", optional=True),
            domain_distance=number_of(known, path, "domain_distance", optional=True),
            share_outside=number_of(known, path, "share_outside", optional=True),
            domain_warning=text_of(known, path, "domain_warning", optional=True),
        )


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
    _require_finite(kept, where)
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


_HELDOUT = ("heldout_r", "heldout_r_lower", "heldout_r_upper")
_PER_GENE = {"slide": "f", "genes": "S"} | dict.fromkeys(_HELDOUT, "f")
_REQUIRED = ("slide", "genes", "heldout_r_lower")


def _require_finite(values: Array, where: str) -> None:
    if not np.isfinite(values).all():
        raise FeatureError("holds NaN or infinity", where=where, fix="Make the file again.")
