"""Imputed expression of every tile, of genes with evidence, as models see it.

STORM files hold it where they were made with ``extract --storm CHECKPOINT --per-tile``; the format
is specified in docs/formats.md.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from storm_clinic.errors import ContractMismatch, FeatureError
from storm_clinic.features.contract import FeatureContract
from storm_clinic.features.guarded_file import attributes_of, opened, text_of
from storm_clinic.features.slide_features import SlideFeatures
from storm_clinic.features.storm_expression import EVIDENCE, read_columns, tile_values
from storm_clinic.features.storm_store import StormStore
from storm_clinic.files import digest_value


@dataclass(frozen=True, eq=False)
class VirtualExpression:
    """Imputed expression of the tiles of one cohort's slides; read like a store of features.

    Attributes
    ----------
    storm : StormStore
        The files.
    evidence : DataFrame, one row a gene with evidence in the files' order
        ``heldout_r, heldout_r_lower, heldout_r_upper``: correlation with measured expression on
        tissue that training had not seen.
    columns : int64 array, shape (n_genes,)
        Where these genes stand in the files.
    digests : mapping of slide id to str
        SHA-256 of each slide's values, of all genes.
    """

    storm: StormStore
    evidence: pd.DataFrame
    columns: NDArray[np.int64]
    digests: Mapping[str, str]

    @classmethod
    def open(cls, storm: StormStore) -> VirtualExpression:
        """Look at what each file imputes; values of tiles are not read yet.

        Raises
        ------
        FeatureError
            If a file holds no expression of tiles, or no gene has evidence.
        ContractMismatch
            If two files impute different genes.
        """
        first: pd.DataFrame | None = None
        digests = {}
        for slide_id, header in storm.headers.items():
            path = storm.folder / f"{slide_id}.h5"
            genes = storm.genes(slide_id).drop(columns="expression")
            first = genes if first is None else first
            if not first.equals(genes):
                raise ContractMismatch(
                    "imputes other genes than the files before, or with other evidence",
                    where=path,
                    fix="Make all STORM files with one checkpoint.",
                )
            with opened(path) as file:
                values = tile_values(file, path)
                if values.shape != (header.n_tiles, len(genes)):
                    raise FeatureError(
                        f"is of shape {values.shape}, not {(header.n_tiles, len(genes))}",
                        where=f"{path}: expression/values",
                    )
                digests[slide_id] = str(text_of(attributes_of(values, path), path, "sha256"))
        assert first is not None  # a store has a file
        known = (first["heldout_r_lower"] > EVIDENCE).to_numpy()
        if not known.any():
            raise FeatureError(
                f"none of its {len(known)} genes has evidence: no lower bound of a held-out "
                f"correlation exceeds {EVIDENCE:g}",
                where=storm.folder,
                fix="Use a checkpoint that was evaluated on held-out tissue.",
            )
        return cls(storm, first[known], np.flatnonzero(known), digests)

    @property
    def genes(self) -> tuple[str, ...]:
        """HGNC symbols of the genes with evidence, in the files' order."""
        return tuple(map(str, self.evidence.index))

    @property
    def folder(self) -> Path:
        """Where the files lie."""
        return self.storm.folder

    @property
    def contract(self) -> FeatureContract:
        """That of the STORM files; a tile's numbers are genes."""
        return replace(self.storm.contract, width=len(self.genes))

    def index(self) -> pd.DataFrame:
        """One row a file, as `StormStore.index` has it."""
        table = self.storm.index()
        genes = self.genes
        found = [digest_value([self.digests[slide], *genes]) for slide in table["slide_id"]]
        return table.assign(features_digest=found)

    def digest_of(self, slides_of_patients: Sequence[Sequence[str]]) -> str:
        """SHA-256 of the genes and of all values of these slides; it holds no id."""
        slides = [self.digests[slide] for slides in slides_of_patients for slide in slides]
        return digest_value([list(self.genes), sorted(slides)])

    def read(self, slide_id: str) -> SlideFeatures:
        """Imputed expression of one slide's tiles, log1p of counts per 10,000, a column a gene.

        Raises
        ------
        FeatureError
            If the file is absent or damaged, its values are not those that were written, or one
            is not finite.
        """
        slide = self.storm.read(slide_id)
        path = self.folder / f"{slide_id}.h5"
        with opened(path) as file:
            dataset = tile_values(file, path)
            if text_of(attributes_of(dataset, path), path, "sha256") != self.digests[slide_id]:
                raise FeatureError("was written anew since it was opened", where=path)
            kept = read_columns(dataset, self.columns, path)
        return replace(slide, features=kept)
