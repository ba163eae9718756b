"""The genes that vary most within sections: what a network of a given size is taught."""

from __future__ import annotations

from collections.abc import Iterable

import numpy as np

from storm_clinic.errors import SectionError
from storm_clinic.storm.genes import GeneVocabulary
from storm_clinic.storm.paired import PairedSection
from storm_clinic.storm.targets import log1p_cp10k


def most_variable_genes(sections: Iterable[PairedSection], n_genes: int) -> GeneVocabulary:
    """Genes with the largest variance of log1p CP10k within sections.

    Within, because differences between sections are as much those of staining day and chemistry.
    Each section weighs by its spots; genes that are in fewer than half of the panels are left out,
    as most sections could not teach them.

    Parameters
    ----------
    sections : iterable of PairedSection
        Training sections only; drawn one by one.
    n_genes : int
        How many at most.

    Returns
    -------
    GeneVocabulary
        Sorted by symbol.

    Raises
    ------
    SectionError
        If there are no sections, or ``n_genes`` is below 1.
    """
    if n_genes < 1:
        raise SectionError(f"{n_genes} genes cannot be chosen", where="most variable genes")
    n_sections = 0
    panels: dict[str, int] = {}
    spots: dict[str, int] = {}
    squares: dict[str, float] = {}
    for section in sections:
        n_sections += 1
        own = GeneVocabulary.of_panels([section.symbols])
        target = log1p_cp10k(section.counts, own.panel(section.symbols))
        values = target.values[target.library > 0].astype(np.float64)
        away = ((values - values.mean(axis=0)) ** 2).sum(axis=0) if len(values) else np.zeros(0)
        for symbol, square in zip(own.symbols, away.tolist(), strict=False):
            panels[symbol] = panels.get(symbol, 0) + 1
            spots[symbol] = spots.get(symbol, 0) + len(values)
            squares[symbol] = squares.get(symbol, 0.0) + square
    if not squares:
        raise SectionError("there are no sections with counts", where="most variable genes")
    common = [symbol for symbol, n in panels.items() if 2 * n >= n_sections]
    # By symbol where variances are equal, so that no order of sections shows.
    ranked = sorted(common, key=lambda symbol: (-squares[symbol] / spots[symbol], symbol))
    return GeneVocabulary.of_panels([ranked[:n_genes]])
