"""One patient's arrays, given by hand, as a model takes them: every shape and gene checked."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from storm_clinic.bundle import MeasuredInput
from storm_clinic.errors import ContractMismatch, InputError
from storm_clinic.features.contract import FeatureContract
from storm_clinic.features.slide_features import SlideFeatures
from storm_clinic.heads.bags import Bags
from storm_clinic.steps.score_inputs import Slide, bags_of, places_of
from storm_clinic.steps.score_storm import require_genes
from storm_clinic.study import VIRTUAL

Array = NDArray[Any]
Tiles = Slide | Sequence[Slide]
GeneTiles = Tiles | pd.DataFrame | Sequence[pd.DataFrame]
Expression = Mapping[str, float] | Sequence[float] | NDArray[np.floating[Any]] | pd.Series

_DTYPE = "float16"  # of an empty bag: what STORM files hold


def patient_bags(
    tiles: Tiles, *, where: str, width: int, made_by: str, needed: bool, dtype: str = _DTYPE
) -> Bags:
    """Tiles of one patient's slides as one bag.

    Parameters
    ----------
    tiles : float array (n_tiles, width), SlideFeatures, or a sequence of either
        A slide each.
    where : str
        The argument, for messages.
    width : int
        What the model takes.
    made_by : str
        The encoder or checkpoint, for messages.
    needed : bool
        Whether the model cannot do without a tile.
    dtype : str
        Of an empty bag.

    Raises
    ------
    ContractMismatch
        If embeddings have another width.
    InputError
        If a value is not finite, or there is no tile where one is needed.
    """
    slides = [tiles] if isinstance(tiles, SlideFeatures | np.ndarray) else list(tiles)
    arrays = [slide.features if isinstance(slide, SlideFeatures) else slide for slide in slides]
    for array in arrays:
        if array.ndim != 2 or array.shape[1] != width:
            raise ContractMismatch(
                f"tiles of shape {array.shape}; the model takes (n_tiles, {width})",
                where=where,
                fix=f"Give embeddings of {made_by}.",
            )
        if not np.isfinite(array).all():
            raise InputError("holds NaN or infinity", where=where)
    if not sum(map(len, arrays)) and needed:
        raise InputError("holds no tile, and the model needs some", where=where)
    return bags_of([(arrays, places_of(slides))], width=width, dtype=dtype)


def gene_bags(
    tiles: GeneTiles, genes: Sequence[str], *, checkpoint: FeatureContract, needed: bool
) -> Bags:
    """Imputed expression of one patient's tiles as one bag, a column a gene of the model.

    Parameters
    ----------
    tiles : array (n_tiles, n_genes), DataFrame, SlideFeatures, or a sequence of either
        log1p of counts per 10,000. Columns of a frame are genes, which must be the model's in the
        model's order; an array's are taken for them.
    genes : sequence of str
        Of the model, in its order.
    checkpoint : FeatureContract
        Of the STORM files that the model learned from.
    needed : bool
        Whether the model cannot do without a tile.

    Raises
    ------
    ContractMismatch
        If there are other genes, or in another order; names the first that differs.
    InputError
        As `patient_bags`.
    """
    alone = isinstance(tiles, pd.DataFrame | SlideFeatures | np.ndarray)
    slides: Any = [tiles] if alone else tiles
    plain: list[Slide] = []
    for slide in slides:
        if not isinstance(slide, pd.DataFrame):
            plain.append(slide)
            continue
        require_genes(list(map(str, slide.columns)), genes, where=VIRTUAL)
        plain.append(slide.to_numpy(np.float32))
    made_by = f"the {len(genes)} genes of {checkpoint.encoder} with evidence, in its order"
    bags = patient_bags(plain, where=VIRTUAL, width=len(genes), made_by=made_by, needed=needed)
    return replace(bags, columns=tuple(genes))


def expression_row(given: Expression | None, table: MeasuredInput) -> pd.DataFrame:
    """Imputed expression of one patient as a row of the model's genes; NaN where nothing is given.

    Parameters
    ----------
    given : mapping of gene to float, Series, or float array (n_genes,), optional
        Names are matched, whatever their order; others than the model's are not used. An array has
        the model's genes in the model's order.
    table : MeasuredInput
        The model's genes.

    Raises
    ------
    ContractMismatch
        If an array has another length, or genes of the model are not named.
    InputError
        If a value is not finite.
    """
    genes, where = list(table.columns), table.name
    if given is None:
        return pd.DataFrame(np.nan, index=[0], columns=genes)
    if isinstance(given, Mapping | pd.Series):
        named = dict(given.items())
        lacking = [gene for gene in genes if gene not in named]
        if lacking:
            raise ContractMismatch(
                f"lacks {len(lacking)} of the model's {len(genes)} genes, the first is "
                f"{lacking[0]}",
                where=where,
                fix="Give every gene of the model; Scorer.imputed_genes lists them.",
            )
        values = np.array([named[gene] for gene in genes], dtype=np.float64)
    else:
        values = np.asarray(given, dtype=np.float64)
    if values.shape != (len(genes),):
        raise ContractMismatch(
            f"is of shape {values.shape}; the model takes ({len(genes)},)",
            where=where,
            fix="Give the model's genes in its order; Scorer.imputed_genes lists them.",
        )
    if not np.isfinite(values).all():
        raise InputError("holds NaN or infinity", where=where)
    return pd.DataFrame([values], index=[0], columns=genes)
