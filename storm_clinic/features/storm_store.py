"""STORM files: contextual embeddings of tiles and imputed expression, one file a slide, for models.

The format is specified in docs/formats.md; the files lie in ``features/<cohort>/<checkpoint>/``.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import h5py
import numpy as np
import pandas as pd

from storm_clinic.errors import ContractMismatch, FeatureError
from storm_clinic.features.contract import FeatureContract
from storm_clinic.features.guarded_file import (
    AGAIN,
    check_links,
    dataset_of,
    number_of,
    opened,
    text_of,
    values_of,
)
from storm_clinic.features.slide_features import Array, SlideFeatures
from storm_clinic.files import safe_name
from storm_clinic.licence_terms import joined

FORMAT = "storm_clinic/slide-storm"
FORMAT_VERSION = 1
EXPRESSION_UNIT = "log1p of counts per 10,000"
_EVIDENCE = 0.0  # genes whose held-out correlation may as well be zero tell nothing


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
        headers = {path.stem: _header(path) for path in sorted(folder.glob("*.h5"))}
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

    def expression(self, slide_id: str) -> pd.Series[float]:
        """Mean imputed expression of one slide by gene, of genes with evidence.

        A gene has evidence where the lower bound of its held-out correlation exceeds zero.

        Raises
        ------
        FeatureError
            If the file is absent or damaged, or a value is not finite.
        """
        path = self._path(slide_id)
        with opened(path) as file:
            if not isinstance(file.get("expression"), h5py.Group):
                raise FeatureError("there is no such group", where=f"{path}: expression", fix=AGAIN)
            group = file["expression"]
            check_links(group, path)
            arrays: dict[str, Array] = {
                name: values_of(
                    dataset_of(group, path, name, (kind, 1)), f"{path}: expression/{name}"
                )
                for name, kind in (("slide", "f"), ("genes", "S"), ("heldout_r_lower", "f"))
            }
        if len({len(array) for array in arrays.values()}) > 1:
            raise FeatureError("lengths differ", where=f"{path}: expression", fix=AGAIN)
        _require_finite(arrays["slide"], f"{path}: expression/slide")
        genes = [name.decode("utf-8") for name in arrays["genes"].tolist()]
        known = arrays["heldout_r_lower"] > _EVIDENCE
        values = arrays["slide"].astype(np.float64)
        return pd.Series(values[known], index=pd.Index(genes, dtype=object)[known])

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
            rows.append(np.average(found, axis=0, weights=weights) if found else None)
        width = 0 if genes is None else len(genes)
        values = [np.full(width, np.nan) if row is None else row for row in rows]
        return pd.DataFrame(np.array(values).reshape(len(rows), width), columns=genes)

    def _path(self, slide_id: str) -> Path:
        return self.folder / f"{safe_name(slide_id, what='slide_id')}.h5"


def _header(path: Path) -> StormHeader:
    with opened(path) as file:
        known = dict(file.attrs)
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
            provenance=str(text_of(known, path, "provenance")),
            licence=text_of(known, path, "licence", optional=True),
        )
        digest = text_of(spots.attrs, path, "sha256")
        return StormHeader(
            slide_id=path.stem,
            n_tiles=len(spots),
            contract=contract,
            spots_digest=str(digest),
            coords_digest=None if coords is None else text_of(coords.attrs, path, "sha256"),
            slide_digest=text_of(known, path, "slide_digest", optional=True),
            slide_mpp=number_of(known, path, "slide_mpp", optional=True),
        )


def _require_finite(values: Array, where: str) -> None:
    if not np.isfinite(values).all():
        raise FeatureError("holds NaN or infinity", where=where, fix="Make the file again.")
