"""Headline numbers by declared subgroup, and whether they differ between them."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pandas as pd

from storm_clinic.inference.meta_analysis import heterogeneity
from storm_clinic.metrics.multiplicity import holm
from storm_clinic.metrics.scales import name_of
from storm_clinic.validation.analyses import HypothesisTest, SubgroupAnalysis
from storm_clinic.validation.evaluation_data import EvaluationData
from storm_clinic.validation.protocol import RESAMPLING_ONLY
from storm_clinic.validation.strata import Headline, Part, headlines, parts_of

UNKNOWN = "not known"


def subgroup_analyses(data: EvaluationData) -> tuple[SubgroupAnalysis, ...]:
    """Every headline in every level of every declared variable, with a test of heterogeneity.

    Patients whose level is not known are a group of their own. The tests of one measure form a
    family, in which p values are adjusted by Holm's method.
    """
    if data.subgroups is None:
        return ()
    found = [
        _analysis(data, headline, str(variable), data.subgroups[variable])
        for headline in headlines(data)
        for variable in data.subgroups
    ]
    return tuple(_adjusted(found))


def _analysis(
    data: EvaluationData, headline: Headline, variable: str, column: pd.Series[str]
) -> SubgroupAnalysis:
    levels = [str(level) for level in column.cat.categories]
    labels = [UNKNOWN if pd.isna(cell) else str(cell) for cell in column]
    order = [level for level in (*levels, UNKNOWN) if level in set(labels)]
    parts = parts_of(data, headline, labels, order)
    limits = f"; {RESAMPLING_ONLY}" if data.kind == "cross-validation" else ""
    return SubgroupAnalysis(
        cohort=data.cohort,
        variable=variable,
        metric=headline.name,
        model=headline.model,
        over=headline.over,
        horizon_months=headline.horizon_months,
        strata=tuple(part.shown for part in parts),
        heterogeneity=_heterogeneity(parts, variable),
        method=f"each group by itself, its interval as in the whole cohort{limits}",
    )


def _heterogeneity(parts: Sequence[Part], variable: str) -> HypothesisTest:
    usable = [part for part in parts if part.on_scale is not None and part.shown.label != UNKNOWN]
    about = {"name": "heterogeneity", "about": variable}
    if len(usable) < 2:
        note = f"{len(usable)} of {len(parts)} groups are large enough; a test needs two"
        return HypothesisTest(note=note, **about)
    pairs = np.array([part.on_scale for part in usable], dtype=np.float64)
    q, df, p = heterogeneity(pairs[:, 0], pairs[:, 1])
    scale = name_of(usable[0].scale)
    left_out = len(parts) - len(usable)
    return HypothesisTest(
        statistic=q,
        df=df,
        p=p,
        method=f"Cochran's Q on {scale}",
        note=f"{left_out} groups too small or not known" if left_out else "",
        **about,
    )


def _adjusted(found: Sequence[SubgroupAnalysis]) -> list[SubgroupAnalysis]:
    """Holm's p values over the variables of one measure."""
    result = list(found)
    families: dict[tuple[object, ...], list[int]] = {}
    for at, item in enumerate(found):
        if item.heterogeneity is not None and item.heterogeneity.p is not None:
            family = (item.metric, item.model, item.over, item.horizon_months)
            families.setdefault(family, []).append(at)
    for positions in families.values():
        tests = [result[at].heterogeneity for at in positions]
        raw = [test.p for test in tests if test is not None and test.p is not None]
        for at, test, p in zip(positions, tests, holm(raw), strict=True):
            assert test is not None
            adjusted = test.model_copy(update={"p_adjusted": float(p)})
            result[at] = result[at].model_copy(update={"heterogeneity": adjusted})
    return result
