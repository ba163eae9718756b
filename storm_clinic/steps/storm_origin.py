"""Whether STORM files were made of the slides, and from the tiles, whose features lie beside them.

A slide that was scanned again, or extracted again in another way, keeps its id: by that alone the
two files of one id would be put together though they show different tissue.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from storm_clinic.errors import ContractMismatch
from storm_clinic.features.store import FeatureStore
from storm_clinic.features.storm_contract import StormContract, is_storm_folder
from storm_clinic.features.storm_header import StormHeader
from storm_clinic.steps.slide_embedding import tiles_digest

_AGAIN = "Run 'storm-clinic extract --storm CHECKPOINT' again: it makes anew what does not fit."


def of_other_origin(
    store: FeatureStore, folder: Path, headers: Mapping[str, StormHeader]
) -> dict[str, str]:
    """Slides whose two files do not belong together, and why.

    The slide must be the same to the last byte, where both files say which it was. Where the STORM
    files were made from tiles of this very kind, it must also have been these tiles; a store of
    another encoder, or of another grid, holds others.

    Parameters
    ----------
    store : FeatureStore
        Tile features.
    folder : Path
        Of the STORM files.
    headers : mapping of slide id to StormHeader
        What each STORM file says of itself; slides without usable tile features are passed over.
    """
    from_these = (
        is_storm_folder(folder)
        and StormContract.read(folder).source_digest == store.contract.digest
    )
    index = store.index()
    usable = index[index["problem"].isna() & index["slide_id"].isin(headers)]
    wrong: dict[str, str] = {}
    for row in usable.to_dict("records"):
        slide_id = str(row["slide_id"])
        problem = _problem(row, headers[slide_id], from_these=from_these)
        if problem is not None:
            wrong[slide_id] = problem
    return wrong


def require_one_origin(
    store: FeatureStore, folder: Path, headers: Mapping[str, StormHeader]
) -> None:
    """Refuse STORM files that do not belong to the tile features beside them.

    Raises
    ------
    ContractMismatch
        With how many there are, and the first of them.
    """
    wrong = of_other_origin(store, folder, headers)
    if not wrong:
        return
    first, problem = next(iter(wrong.items()))
    raise ContractMismatch(
        f"{len(wrong)} of {len(headers)} STORM files do not belong to the tile features in "
        f"{store.folder}; the first: {problem}",
        where=folder / f"{first}.h5",
        fix=_AGAIN,
    )


def is_of_slide(row: Mapping[Any, Any], storm: StormHeader) -> bool:
    """Whether a STORM file is of the slide of a store's index row, or one of them does not say."""
    of_tiles, of_storm = row["slide_digest"], storm.slide_digest
    return not isinstance(of_tiles, str) or of_storm is None or of_tiles == of_storm


def _problem(row: Mapping[Any, Any], storm: StormHeader, *, from_these: bool) -> str | None:
    if not is_of_slide(row, storm):
        return "its STORM file was made of another slide than its tile features"
    if from_these and storm.source_digest not in (None, tiles_digest(row)):
        return "its STORM file was made from other tile features than those beside it"
    return None
