"""Which genes of a checkpoint are imputed: those with evidence, or a panel that has it."""

from __future__ import annotations

from collections.abc import Sequence
from difflib import get_close_matches
from pathlib import Path

import numpy as np

from storm_clinic.errors import InputError
from storm_clinic.features.storm_expression import EVIDENCE
from storm_clinic.features.storm_writer import ImputedGenes
from storm_clinic.storm.genes import GeneVocabulary
from storm_clinic.storm.reliability import GeneReliability

_SHOWN = 8
_WHERE = "genes"


def choose_genes(
    vocabulary: GeneVocabulary,
    reliability: GeneReliability | None,
    *,
    asked: Sequence[str] | None = None,
    min_r: float | None = EVIDENCE,
) -> ImputedGenes | None:
    """Genes to impute, in the order of the vocabulary.

    Parameters
    ----------
    vocabulary : GeneVocabulary
        Of the checkpoint.
    reliability : GeneReliability or None
        Of the checkpoint.
    asked : sequence of str, optional
        Names of genes, other names than today's too. By default all that have evidence.
    min_r : float or None
        What the lower bound of a gene's held-out correlation must exceed; None asks for no
        evidence, and genes that were never evaluated are imputed too.

    Returns
    -------
    ImputedGenes or None
        None where no gene was asked for and none has evidence.

    Raises
    ------
    InputError
        If a name is unknown, a gene that was asked for has no evidence (with both numbers), or
        genes are asked for although the checkpoint states no reliability at all.
    """
    if reliability is None:
        if asked is not None or min_r is None:
            raise InputError(
                "the checkpoint states for no gene how well it is imputed; its expression cannot "
                "be used",
                where=_WHERE,
                fix="Evaluate the checkpoint on held-out tissue, or extract its embeddings alone.",
            )
        return None
    everything = np.ones(len(vocabulary), dtype=bool)
    evident = everything if min_r is None else reliability.exceeds(min_r)
    if asked is None:
        places = np.flatnonzero(evident)
    else:
        places = _places(vocabulary, asked)
        if min_r is not None and not evident[places].all():
            raise _without_evidence(vocabulary, reliability, places[~evident[places]], min_r)
    if not len(places):
        return None
    return ImputedGenes(
        tuple(vocabulary.symbols[place] for place in places.tolist()),
        places,
        reliability.r[places],
        reliability.lower[places],
        reliability.upper[places],
        reliability.how,
        min_r,
        vocabulary.digest,
    )


def read_gene_names(genes: str | Path | Sequence[str]) -> list[str]:
    """Names of genes from a file with one a line, or from text with commas between them.

    Raises
    ------
    InputError
        If there is no name, or the file cannot be read.
    """
    if isinstance(genes, str | Path):
        path = Path(genes).expanduser()
        try:
            text = path.read_text(encoding="utf-8") if path.is_file() else str(genes)
        except (OSError, UnicodeDecodeError) as error:
            raise InputError(f"cannot be read as text: {error}", where=path) from error
        genes = text.replace(",", "\n").splitlines()
    names = [name.strip() for name in genes]
    names = [name for name in names if name and not name.startswith("#")]
    if not names:
        raise InputError("names no gene", where=_WHERE, fix="Give symbols, or a file of them.")
    return names


def _places(vocabulary: GeneVocabulary, asked: Sequence[str]) -> np.ndarray:
    panel = vocabulary.panel(list(dict.fromkeys(map(vocabulary.resolve, asked))))
    if panel.unknown:
        near = get_close_matches(panel.unknown[0], vocabulary.symbols, n=1)
        mean = f" Did you mean {near[0]}?" if near else ""
        raise InputError(
            f"the checkpoint does not know {_some(list(panel.unknown))}",
            where=_WHERE,
            fix=f"It knows {len(vocabulary)} genes by their HGNC symbols.{mean}",
        )
    return np.flatnonzero(panel.mask)


def _without_evidence(
    vocabulary: GeneVocabulary, reliability: GeneReliability, places: np.ndarray, min_r: float
) -> InputError:
    listed = [
        f"{vocabulary.symbols[place]} (r {reliability.r[place]:.2f}, "
        f"lower bound {reliability.lower[place]:.2f})"
        if np.isfinite(reliability.r[place])
        else f"{vocabulary.symbols[place]} (not evaluated)"
        for place in places.tolist()
    ]
    return InputError(
        f"held-out correlation is not shown to lie above {min_r:g}: {_some(listed)}",
        where=_WHERE,
        fix="Leave them out, or write them without evidence with --min-r none.",
    )


def _some(names: list[str]) -> str:
    more = f" and {len(names) - _SHOWN} more" if len(names) > _SHOWN else ""
    return ", ".join(names[:_SHOWN]) + more
