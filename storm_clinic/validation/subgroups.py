"""Headline numbers by declared subgroup, and whether they differ between them."""

from __future__ import annotations

from collections import Counter
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

UNKNOWN, SITE = "not known", "site"


def subgroup_analyses(data: EvaluationData) -> tuple[SubgroupAnalysis, ...]:
    """Every headline in every level of every declared variable, with a test of heterogeneity.

    Hospitals are one more variable, where there are two or more. Patients whose level is not known
    are a group of their own, which takes no part in the test. The tests of one measure form a
    family, in which p values are adjusted by Holm's method.

    Parameters
    ----------
    data : EvaluationData
        The cohort; the columns of ``subgroups`` are categorical.
    """
    columns = _columns(data)
    found = [
        _analysis(data, headline, variable, column)
        for headline in headlines(data)
        for variable, column in columns.items()
    ]
    return tuple(_adjusted(found))


def _columns(data: EvaluationData) -> dict[str, pd.Series[str]]:
    table = pd.DataFrame() if data.subgroups is None else data.subgroups
    columns = {str(name): table[name] for name in table}
    sites = Counter(site for site in data.sites or () if site)
    if len(sites) > 1 and SITE not in columns:
        largest_first = sorted(sites, key=lambda site: (-sites[site], site))
        known = [site or None for site in data.sites or ()]
        columns[SITE] = pd.Series(pd.Categorical(known, categories=largest_first))
    return columns


def _analysis(
    data: EvaluationData, headline: Headline, variable: str, column: pd.Series[str]
) -> SubgroupAnalysis:
    levels = [str(level) for level in column.cat.categories]
    labels = [UNKNOWN if pd.isna(cell) else str(cell) for cell in column]
    order = [level for level in dict.fromkeys([*levels, UNKNOWN]) if level in set(labels)]
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
        note = (
            f"{len(usable)} of {len(parts)} groups are known and have a value with an error; a "
            "test needs two"
        )
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
        note=f"{left_out} of {len(parts)} groups take no part: not known, or without a value and "
        "its error"
        if left_out
        else "",
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
