"""Columns of the clinical table, from text to the types that cohort.yaml declares."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from storm_clinic.cohort.declarations import BinnedColumn, ColumnDeclaration, ContinuousColumn
from storm_clinic.cohort.manifest import Manifest
from storm_clinic.cohort.values import is_among, to_codes, to_numbers


@dataclass(frozen=True)
class Column:
    """A covariate as its consumers see it.

    Attributes
    ----------
    name : str
    kind : {"continuous", "ordinal", "nominal"}
        A ``binned`` declaration is ordinal here.
    source : str
        Column of the clinical table (for a binned one: the declared column it is cut from).
    unit : str, optional
        Of a continuous column.
    levels : tuple of str
        Of an ordinal (low to high) or nominal (reference first) column, else empty.
    """

    name: str
    kind: Literal["continuous", "ordinal", "nominal"]
    source: str
    unit: str | None = None
    levels: tuple[str, ...] = ()


def describe_column(name: str, spec: ColumnDeclaration) -> Column:
    """What a declaration says of its column."""
    if isinstance(spec, ContinuousColumn):
        return Column(name, "continuous", spec.source, unit=spec.unit)
    kind: Literal["ordinal", "nominal"] = "nominal" if spec.kind == "nominal" else "ordinal"
    return Column(name, kind, spec.source, levels=spec.levels)


def typed_columns(manifest: Manifest, cells: pd.DataFrame) -> pd.DataFrame:
    """The declared columns and ``site``, typed, one row a row of ``cells``."""
    made: dict[str, pd.Series[Any]] = {}
    for name, spec in manifest.columns.items():
        if isinstance(spec, BinnedColumn):
            continue
        markers = {*manifest.missing, *spec.missing}
        source = cells[spec.source]
        if isinstance(spec, ContinuousColumn):
            made[name] = pd.Series(to_numbers(source, markers))
        else:
            codes = to_codes(source, spec.meaning)
            made[name] = _categorical(codes, spec.levels, ordered=spec.kind == "ordinal")
    for name, spec in manifest.columns.items():
        if isinstance(spec, BinnedColumn):
            made[name] = _binned(np.asarray(made[spec.source], dtype=np.float64), spec)
    if manifest.site:
        unknown = is_among(cells[manifest.site], manifest.missing)
        sites = [None if no else s for s, no in zip(cells[manifest.site], unknown, strict=True)]
        made["site"] = pd.Series(sites, dtype=object)
    # In the order of the manifest.
    order = [*manifest.columns, *(["site"] if manifest.site else [])]
    rows = pd.RangeIndex(len(cells))
    return pd.DataFrame({name: made[name] for name in order}, index=rows).set_axis(cells.index)


def _binned(values: NDArray[np.float64], spec: BinnedColumn) -> pd.Series[str]:
    band = np.searchsorted(spec.cuts, values, side="right")
    return _categorical(np.where(np.isnan(values), -1, band), spec.levels, ordered=True)


def _categorical(
    codes: NDArray[np.int64], levels: tuple[str, ...], *, ordered: bool
) -> pd.Series[str]:
    values = pd.Categorical.from_codes(codes, categories=pd.Index(levels), ordered=ordered)
    return pd.Series(values)
