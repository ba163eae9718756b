"""STORM files of slides to be scored: read one at a time, held to what the model learned from."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TypeVar

import pandas as pd

from storm_clinic.errors import ContractMismatch, FeatureError, UnsafeName
from storm_clinic.features.contract import CONTRACT_NAME, FeatureContract
from storm_clinic.features.slide_features import SlideFeatures
from storm_clinic.features.storm_contract import is_storm_folder
from storm_clinic.features.storm_header import StormHeader, read_header
from storm_clinic.features.storm_store import StormStore
from storm_clinic.features.storm_tiles import VirtualExpression
from storm_clinic.files import safe_name
from storm_clinic.study import IMPUTED, VIRTUAL

_SUFFIX = ".h5"
Found = TypeVar("Found")


@dataclass(frozen=True, eq=False)
class StormSlide:
    """What a model sees of one slide's STORM file.

    Attributes
    ----------
    tiles : dict of str to SlideFeatures
        ``storm`` and ``virtual_expression``, those that the model sees.
    expression : Series of float64 by gene, optional
        Mean over the tiles of genes with evidence, where the model sees it.
    n_tiles : int
    domain_warning : str, optional
        Where the slide looks unlike the checkpoint's training data.
    """

    tiles: Mapping[str, SlideFeatures]
    expression: pd.Series[float] | None
    n_tiles: int
    domain_warning: str | None


@dataclass(frozen=True)
class StormFiles:
    """A folder of STORM files. One that is damaged, or was made in another way, hides no other.

    Attributes
    ----------
    folder : Path
    contract : FeatureContract
        What every file must say of itself.
    inputs : frozenset of str
        What the model sees of them: ``storm``, ``imputed_expression``, ``virtual_expression``.
    genes : tuple of str
        Genes with evidence, in the files' order; empty where the model sees none.
    """

    folder: Path
    contract: FeatureContract
    inputs: frozenset[str]
    genes: tuple[str, ...] = ()

    @classmethod
    def open(
        cls,
        folder: Path,
        learned_from: FeatureContract,
        inputs: frozenset[str],
        *,
        genes: Sequence[str] | None = None,
    ) -> StormFiles:
        """Hold a folder to what a model learned from, by the first of its files that can be read.

        Parameters
        ----------
        folder : Path
            With one ``.h5`` a slide.
        learned_from : FeatureContract
            Of the STORM files of development. A checkpoint is known by its digest: the folder may
            have another name.
        inputs : frozenset of str
            What the model sees of them.
        genes : sequence of str, optional
            What the model's ``virtual_expression`` has for columns.

        Raises
        ------
        FeatureError
            If there is no STORM file that can be read, or it holds not what the model sees.
        ContractMismatch
            If the files were made in another way, naming both values; or impute other genes.
        """
        header = _first(folder, read_header)
        found = header.contract
        if found.encoder_digest == learned_from.encoder_digest:
            found = replace(found, encoder=learned_from.encoder)
        where = folder / CONTRACT_NAME if is_storm_folder(folder) else folder
        found.require_same(learned_from, where=where)
        files = cls(folder, header.contract, inputs)
        if not inputs & {IMPUTED, VIRTUAL}:
            return files
        files = replace(files, genes=_first(folder, files._genes_of))
        if genes is not None and VIRTUAL in inputs:
            require_genes(files.genes, genes, where=folder)
        return files

    def slide_ids(self) -> list[str]:
        """Ids of all slides that have a file, sorted."""
        return sorted(path.stem for path in self.folder.glob(f"*{_SUFFIX}"))

    def headers(self) -> dict[str, StormHeader]:
        """What each file says of itself; one that cannot be read is told where it is asked for."""
        found: dict[str, StormHeader] = {}
        for slide_id in self.slide_ids():
            try:
                found[slide_id] = read_header(self._path(slide_id))
            except (FeatureError, UnsafeName):
                continue
        return found

    def read(self, slide_id: str) -> StormSlide:
        """What the model sees of one slide, every array of it checked against its digest.

        Raises
        ------
        FeatureError
            If the file is absent or damaged, holds no tile, or not what the model sees.
        ContractMismatch
            If it was made in another way than the others, or imputes other genes.
        """
        path = self._path(slide_id)
        header = read_header(path)
        header.contract.require_same(self.contract, where=path)
        if not header.n_tiles:
            raise FeatureError("holds no tile", where=path)
        alone = self._alone(header)
        tiles: dict[str, SlideFeatures] = {}
        if "storm" in self.inputs:
            tiles["storm"] = alone.read(slide_id)
        if VIRTUAL in self.inputs:
            virtual = VirtualExpression.open(alone)
            self._require_these(virtual.genes, path)
            tiles[VIRTUAL] = virtual.read(slide_id)
        expression = None
        if IMPUTED in self.inputs:
            expression = alone.expression(slide_id)
            self._require_these(tuple(map(str, expression.index)), path)
        return StormSlide(tiles, expression, header.n_tiles, header.domain_warning)

    def _genes_of(self, path: Path) -> tuple[str, ...]:
        alone = self._alone(read_header(path))
        if VIRTUAL in self.inputs:
            return VirtualExpression.open(alone).genes
        return tuple(map(str, alone.expression(path.stem).index))

    def _alone(self, header: StormHeader) -> StormStore:
        """The one file as a store, which reads it as training and validation do."""
        return StormStore(self.folder, header.contract, {header.slide_id: header})

    def _require_these(self, genes: tuple[str, ...], path: Path) -> None:
        if genes != self.genes:
            raise ContractMismatch(
                "imputes other genes than the files before, or with other evidence",
                where=path,
                fix="Make all STORM files with one checkpoint.",
            )

    def _path(self, slide_id: str) -> Path:
        return self.folder / f"{safe_name(slide_id, what='slide_id')}{_SUFFIX}"


def holds_storm_files(folder: Path) -> bool:
    """Whether a folder says that it holds STORM files, or has one without saying so."""
    if (folder / CONTRACT_NAME).is_file():
        return is_storm_folder(folder)
    paths = sorted(folder.glob(f"*{_SUFFIX}"))
    try:
        return bool(paths) and read_header(paths[0]) is not None
    except FeatureError:
        return False


def _first(folder: Path, read: Callable[[Path], Found]) -> Found:
    """Of the first file that can be read; what is wrong with others is said slide by slide."""
    problem: FeatureError | None = None
    for path in sorted(folder.glob(f"*{_SUFFIX}")):
        try:
            return read(path)
        except FeatureError as error:
            problem = problem or error
    if problem is not None:
        raise problem
    raise FeatureError(
        "holds no STORM file",
        where=folder,
        fix="Make them with 'storm-clinic extract --storm CHECKPOINT', or score the slides.",
    )


def require_genes(found: Sequence[str], wanted: Sequence[str], *, where: str | Path) -> None:
    """Refuse other genes of tiles, or another order, than the model learned from.

    Raises
    ------
    ContractMismatch
        Naming both counts, and the first that differs.
    """
    if tuple(found) == tuple(wanted):
        return
    at = next(
        (i for i, pair in enumerate(zip(wanted, found, strict=False)) if pair[0] != pair[1]),
        min(len(wanted), len(found)),
    )
    ours, theirs = (names[at] if at < len(names) else "nothing" for names in (wanted, found))
    raise ContractMismatch(
        f"{len(found)} genes with evidence, and the model learned from {len(wanted)}: gene "
        f"{at + 1} is {theirs}, not {ours}",
        where=where,
        fix="Use the checkpoint and the genes of the model's STORM files, in their order.",
    )
