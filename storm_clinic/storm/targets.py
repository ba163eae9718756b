"""What STORM learns to predict: expression freed of how deeply a spot was sequenced."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from storm_clinic.storm.genes import GeneVocabulary, Panel

PER = 10_000.0


class Target(NamedTuple):
    """Expression of spots, and the counts that were divided out.

    Attributes
    ----------
    values : float32 array, shape (n_spots, n_genes)
        log1p of counts per 10,000. Outside the panel, and in spots without a count, it is 0 and
        means nothing.
    library : int64 array, shape (n_spots,)
        Counts over the panel. It stays beside the target because on its own it predicts raw log
        counts well, so that every evaluation needs it as a control. Where it is 0 nothing was
        measured, and the spot belongs in no loss.
    """

    values: NDArray[np.float32]
    library: NDArray[np.int64]


def log1p_cp10k(counts: Any, panel: Panel) -> Target:
    """log1p of counts per 10,000 counts of the panel's genes.

    Counts of genes outside the vocabulary are left out of the total too: the target of a spot
    then depends only on genes that the model knows, whatever else the assay measured.

    Parameters
    ----------
    counts : sparse array of int, shape (n_spots, n_symbols)
        Raw counts, columns in the panel's order.
    panel : Panel
        From `GeneVocabulary.panel`.

    Raises
    ------
    SectionError
        If the columns do not go with the panel.
    """
    known = panel.gather(counts)
    library = np.asarray(known.sum(axis=1), dtype=np.int64).reshape(-1)
    values = known.toarray().astype(np.float32)
    values *= (PER / np.maximum(library, 1)).astype(np.float32)[:, None]
    return Target(np.log1p(values, out=values), library)


class AssayTarget(NamedTuple):
    """Expression of some genes, divided by the counts of all genes of the assay.

    Attributes
    ----------
    values : float32 array, shape (n_spots, n_genes)
        log1p of counts per 10,000; 0 where the gene is not known.
    library : int64 array, shape (n_spots,)
        Counts over the whole assay.
    known : bool array, shape (n_genes,)
        Genes that the assay looked for.
    """

    values: NDArray[np.float32]
    library: NDArray[np.int64]
    known: NDArray[np.bool_]


def of_whole_assay(counts: Any, symbols: Sequence[str], vocabulary: GeneVocabulary) -> AssayTarget:
    """Expression of a vocabulary's genes that does not depend on which genes are in it.

    Parameters
    ----------
    counts : sparse array of int, shape (n_spots, n_symbols)
        Raw counts of all that the assay measured.
    symbols : sequence of str
        Names of the columns.
    vocabulary : GeneVocabulary
        Genes that are wanted, and by which other names they go.
    """
    everything = GeneVocabulary.of_panels([symbols], vocabulary.aliases)
    whole = log1p_cp10k(counts, everything.panel(symbols))
    places = {symbol: place for place, symbol in enumerate(everything.symbols)}
    columns = np.array([places.get(symbol, -1) for symbol in vocabulary.symbols])
    values = np.where(columns >= 0, whole.values[:, columns], 0).astype(np.float32)
    return AssayTarget(values, whole.library, columns >= 0)
