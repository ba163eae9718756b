"""What STORM learns to predict: expression freed of how deeply a spot was sequenced."""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from storm_clinic.storm.genes import Panel

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
