"""Look at every value of a feature store, and say what is wrong with it and what is odd."""

from __future__ import annotations

import os
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Literal

import numpy as np
import pandas as pd

from storm_clinic.errors import ContractMismatch, InputError
from storm_clinic.features.slide_features import Array, SlideFeatures, largest_magnitude
from storm_clinic.features.store import FeatureStore
from storm_clinic.progress import Progress

Severity = Literal["error", "warning"]
# Hashing, comparing and reading release the interpreter; more threads only queue for the disk.
_MAX_THREADS = 8


@dataclass(frozen=True)
class Finding:
    """One thing found in a store; an error makes a slide unusable or counts it twice.

    Attributes
    ----------
    slide_id : str
    severity : {"error", "warning"}
    code : str
        Stable name of the check.
    finding : str
        What was found, in words.
    """

    slide_id: str
    severity: Severity
    code: str
    finding: str


def inspect_store(store: FeatureStore, *, progress: Progress | None = None) -> list[Finding]:
    """Read every file of a store and check it.

    Codes: ``contract`` (made in another way), ``unreadable`` (damaged, renamed, wrong shapes),
    ``no tiles``, ``not finite``, ``constant rows`` (all tiles alike), ``constant columns``,
    ``failed tiles``, ``repeated tiles`` (one place twice), ``same slide`` (by the slide's digest)
    and ``same features`` (by the digest of the array).

    Parameters
    ----------
    store : FeatureStore
        The store; its index is brought up to date.
    progress : callable, optional
        Called with a name, the number of slides done and their total.

    Returns
    -------
    list of Finding
        In order of slide id, then of what is shared between slides.
    """
    slide_ids = store.slide_ids()
    found: list[Finding] = []
    with ThreadPoolExecutor(min(_MAX_THREADS, os.cpu_count() or 1)) as pool:
        results = pool.map(lambda slide_id: _inspect_slide(store, slide_id), slide_ids)
        for done, result in enumerate(results, start=1):
            found += result
            if progress is not None:
                progress("checking features", done, len(slide_ids))
    for code, ids in shared_slides(store.index()):
        found.append(Finding(ids[0], "error", code, f"also there as {', '.join(ids[1:])}"))
    return found


def shared_slides(index: pd.DataFrame) -> list[tuple[str, tuple[str, ...]]]:
    """Groups of ids that are one slide, by the slide's digest or by that of its features.

    Parameters
    ----------
    index : DataFrame
        With the columns ``slide_id, slide_digest, features_digest`` of a store's index.

    Returns
    -------
    list of (code, ids)
        ``same slide`` or ``same features``, each group once, ids sorted.
    """
    groups: dict[tuple[str, ...], str] = {}
    for column, code in (("slide_digest", "same slide"), ("features_digest", "same features")):
        known = index[index[column].notna()]
        repeated = known[known.duplicated(column, keep=False)]
        for _, group in repeated.groupby(column, sort=False):
            groups.setdefault(tuple(sorted(group["slide_id"])), code)
    return [(code, ids) for ids, code in sorted(groups.items())]


def _inspect_slide(store: FeatureStore, slide_id: str) -> list[Finding]:
    try:
        slide = store.read(slide_id, allow_nonfinite=True)
    except ContractMismatch as error:
        return [Finding(slide_id, "error", "contract", error.problem)]
    except InputError as error:
        return [Finding(slide_id, "error", "unreadable", str(error))]
    return [Finding(slide_id, *found) for found in _problems(slide)]


def _problems(slide: SlideFeatures) -> Iterator[tuple[Severity, str, str]]:
    if slide.n_tiles == 0:
        yield "error", "no tiles", "there is no tile"
        return
    yield from _value_problems(slide.features)
    if slide.failed_coords is not None and len(slide.failed_coords):
        n_failed = len(slide.failed_coords)
        yield (
            "warning",
            "failed tiles",
            f"{n_failed} of {n_failed + slide.n_tiles} tiles could not be read",
        )
    if slide.coords is not None:
        n_repeated = slide.n_tiles - len(np.unique(slide.coords, axis=0))
        if n_repeated:
            yield "warning", "repeated tiles", f"{n_repeated} tiles lie where another one does"


def _value_problems(features: Array) -> Iterator[tuple[Severity, str, str]]:
    if not np.isfinite(largest_magnitude(features)):
        n_bad = int((~np.isfinite(features)).any(axis=1).sum())
        yield "error", "not finite", f"{n_bad} of {len(features)} tiles hold NaN or infinity"
        return
    if len(features) == 1:
        return  # one tile is constant by nature
    # As integers, which compare several times faster than half-precision floats.
    words = features.view(f"u{features.dtype.itemsize}")
    n_constant = int((words == words[0]).all(axis=0).sum())
    width = features.shape[1]
    if n_constant == width:
        yield "error", "constant rows", f"all {len(features)} tiles have the same embedding"
    elif n_constant:
        yield (
            "warning",
            "constant columns",
            f"{n_constant} of {width} values are the same in all {len(features)} tiles",
        )
