"""One ordered list of genes, what else they are called, and which of them a panel measured."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pandas as pd
from numpy.typing import NDArray
from scipy import sparse

from storm_clinic.errors import SectionError
from storm_clinic.files import digest_value
from storm_clinic.storm.known_renames import KNOWN_RENAMES

_SHOWN = 5


class Panel(NamedTuple):
    """What one technology or section measured, seen from a vocabulary.

    Attributes
    ----------
    mask : bool array, shape (n_genes,)
        True where the vocabulary's gene was measured. False means unknown, which is not zero.
    columns : int64 array, shape (n_symbols,)
        For each symbol of the panel its place in the vocabulary, -1 where it has none.
    unknown : tuple of str
        Symbols of the panel that the vocabulary lacks, in the panel's order.
    """

    mask: NDArray[np.bool_]
    columns: NDArray[np.int64]
    unknown: tuple[str, ...]

    def gather(self, counts: Any) -> Any:
        """Counts by vocabulary gene; columns of one gene are summed, unknown genes stay empty.

        Parameters
        ----------
        counts : sparse array of int, shape (n_spots, n_symbols)
            Columns in the panel's order.

        Returns
        -------
        sparse CSR array of int64, shape (n_spots, n_genes)
            An entry of a gene outside ``mask`` means nothing.
        """
        if counts.shape[1] != len(self.columns):
            raise SectionError(
                f"{counts.shape[1]} columns of counts do not go with "
                f"a panel of {len(self.columns)} symbols",
                where="panel",
            )
        rows = np.flatnonzero(self.columns >= 0)
        ones = np.ones(len(rows), dtype=np.int64)
        shape = (len(self.columns), len(self.mask))
        into = sparse.csr_array((ones, (rows, self.columns[rows])), shape=shape)
        return sparse.csr_array(sparse.csr_array(counts) @ into)


@dataclass(frozen=True)
class GeneVocabulary:
    """Genes in the order in which a model knows them.

    Attributes
    ----------
    symbols : tuple of str
        HGNC symbols, none twice.
    aliases : mapping of str to str
        Another name of a gene, and its symbol. An alias is never itself one of ``symbols``: a
        name that a gene bears today always means that gene.

    Raises
    ------
    SectionError
        If a symbol is empty or occurs twice, or an alias leads to another alias; names them.
    """

    symbols: tuple[str, ...]
    aliases: Mapping[str, str] = field(default_factory=dict)

    def __post_init__(self) -> None:
        repeated = [symbol for symbol, count in Counter(self.symbols).items() if count > 1]
        if repeated or not self.symbols or not all(map(_is_name, self.symbols)):
            problem = f"symbols occur twice: {_some(repeated)}" if repeated else "a symbol is empty"
            raise SectionError(problem, where="gene vocabulary")
        chained = [alias for alias, symbol in self.aliases.items() if symbol in self.aliases]
        shadowed = [alias for alias in self.aliases if alias in self._places]
        if chained or shadowed:
            raise SectionError(
                f"aliases lead to other aliases: {_some(chained)}"
                if chained
                else f"aliases are symbols of their own: {_some(shadowed)}",
                where="gene vocabulary",
                fix="Let each alias name today's symbol, and drop those that are symbols.",
            )

    @classmethod
    def of_panels(
        cls, panels: Iterable[Sequence[str]], aliases: Mapping[str, str] = KNOWN_RENAMES
    ) -> GeneVocabulary:
        """All genes of some panels under today's symbols, sorted.

        Of the aliases those are kept whose gene is in it; no alias of a gene outside could matter.
        """
        symbols = {aliases.get(name, name) for panel in panels for name in panel}
        kept = {alias: name for alias, name in sorted(aliases.items()) if name in symbols}
        return cls(tuple(sorted(symbols)), {a: s for a, s in kept.items() if a not in symbols})

    @cached_property
    def _places(self) -> dict[str, int]:
        return {symbol: place for place, symbol in enumerate(self.symbols)}

    def __len__(self) -> int:
        return len(self.symbols)

    @cached_property
    def digest(self) -> str:
        """SHA-256 over symbols in order and aliases."""
        return digest_value(self.to_json())

    def to_json(self) -> dict[str, Any]:
        """Symbols and aliases as plain JSON."""
        return {"symbols": list(self.symbols), "aliases": dict(sorted(self.aliases.items()))}

    @classmethod
    def from_json(cls, value: Mapping[str, Any]) -> GeneVocabulary:
        """What `to_json` gave.

        Raises
        ------
        TypeError
            If a symbol or an alias is no text.
        """
        found = cls(tuple(value["symbols"]), dict(value["aliases"]))
        if not all(isinstance(name, str) for name in (*found.symbols, *found.aliases.values())):
            raise TypeError("a gene's name is no text")
        return found

    def resolve(self, name: str) -> str:
        """Today's symbol of a gene; a name that is no alias is returned as it is."""
        return self.aliases.get(name, name)

    def panel(self, symbols: Sequence[str]) -> Panel:
        """Which of the vocabulary's genes a panel measured, and where.

        One symbol in several columns is one gene under several identifiers (Space Ranger's
        references have a few); counts of molecules add up, so `Panel.gather` sums them. Two
        *different* names that resolve to one gene are refused: an annotation that lists both
        holds them to be two genes, so the alias is wrong for it and a sum would mix genes.

        Parameters
        ----------
        symbols : sequence of str
            The panel's names, in the order of its columns of counts.

        Raises
        ------
        SectionError
            If two different names of the panel resolve to one gene; names them.
        """
        named: dict[str, set[str]] = {}
        for name in symbols:
            named.setdefault(self.resolve(name), set()).add(name)
        clashes = [
            f"{' and '.join(sorted(names))} (both {gene})"
            for gene, names in named.items()
            if len(names) > 1
        ]
        if clashes:
            raise SectionError(
                f"different names resolve to one gene: {_some(clashes)}",
                where="panel",
                fix="Take these aliases out of the vocabulary, or rename the panel's genes.",
            )
        places = [self._places.get(self.resolve(name), -1) for name in symbols]
        columns = np.array(places, dtype=np.int64)
        mask = np.zeros(len(self), dtype=bool)
        mask[columns[columns >= 0]] = True
        missing = (name for name, place in zip(symbols, places, strict=True) if place < 0)
        return Panel(mask, columns, tuple(missing))


def read_aliases(path: str | Path) -> dict[str, str]:
    """Read a tab-separated table with columns ``alias`` and ``symbol``.

    Raises
    ------
    SectionError
        If a column is missing, a cell is empty, or an alias has two symbols; names line or alias.
    """
    path = Path(path)
    try:
        table = pd.read_csv(path, sep="\t", dtype=str, keep_default_na=False)
    except (OSError, UnicodeDecodeError, pd.errors.ParserError, pd.errors.EmptyDataError) as error:
        raise SectionError(f"cannot be read as a table: {error}", where=path) from error
    absent = [name for name in ("alias", "symbol") if name not in table.columns]
    if absent:
        raise SectionError(
            f"has no column {' and '.join(absent)}",
            where=path,
            fix="Give tab-separated columns 'alias' and 'symbol', one alias a line.",
        )
    aliases: dict[str, str] = {}
    for line, (alias, symbol) in enumerate(zip(table["alias"], table["symbol"], strict=True), 2):
        if not (_is_name(alias) and _is_name(symbol)):
            raise SectionError("alias or symbol is empty", where=f"{path}, line {line}")
        if aliases.setdefault(alias, symbol) != symbol:
            raise SectionError(
                f"alias {alias} has two symbols: {aliases[alias]} and {symbol}",
                where=f"{path}, line {line}",
                fix="Keep the one that your annotation means, or leave the alias out.",
            )
    return aliases


def _is_name(name: str) -> bool:
    return bool(name) and name == name.strip()


def _some(names: Sequence[str]) -> str:
    more = f" and {len(names) - _SHOWN} more" if len(names) > _SHOWN else ""
    return ", ".join(names[:_SHOWN]) + more
