"""STORM files: contextual embeddings of tiles and imputed expression, one file a slide, for models.

The format is specified in docs/formats.md; the files lie in ``features/<cohort>/<checkpoint>/``.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import pandas as pd

from storm_clinic.errors import ContractMismatch, FeatureError
from storm_clinic.features.contract import FeatureContract
from storm_clinic.features.guarded_file import dataset_of, opened, values_of
from storm_clinic.features.slide_features import SlideFeatures
from storm_clinic.features.storm_expression import (
    EVIDENCE,
    mean_over_slides,
    read_columns,
    read_genes,
    require_finite,
    tile_values,
)
from storm_clinic.features.storm_header import StormHeader, read_header
from storm_clinic.files import safe_name
from storm_clinic.licence_terms import joined


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
        require_finite(spots, f"{path}: spots")
        header = self.headers[slide_id]
        return SlideFeatures(
            slide_id,
            spots,
            coords,
            slide_digest=header.slide_digest,
            slide_mpp=header.slide_mpp,
        )

    def genes(self, slide_id: str) -> pd.DataFrame:
        """Every imputed gene of a slide with its evidence, and errors, as `read_genes` has them."""
        return read_genes(self._path(slide_id))

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
