"""From feature files to bags: streamed into one memory-mapped array, kept by digest."""

from __future__ import annotations

import hashlib
import io
from collections import deque
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from storm_clinic.errors import FeatureError
from storm_clinic.features.slide_features import SlideFeatures
from storm_clinic.features.store import FeatureStore
from storm_clinic.features.storm_store import StormStore
from storm_clinic.features.storm_tiles import VirtualExpression
from storm_clinic.files import atomic_write, digest_value, storage_errors
from storm_clinic.heads.bags import Bags
from storm_clinic.heads.kept_rows import KnownMeans
from storm_clinic.heads.packed_array import DERIVED, PackedArray, map_array, write_packed

Array = NDArray[Any]
Store = FeatureStore | StormStore | VirtualExpression
Row = Mapping[Any, Any]  # of the store's index

_FORMAT = 2  # of the cache; part of its digest
_CONTENT = "features_digest"
_VALUES = (_CONTENT,)
_PLACES = ("coords_digest", "slide_mpp")
_SEAL_BYTES = 32


def build_bags(
    store: Store, slides_of_patients: Sequence[Sequence[str]], cache: Path | None = None
) -> Bags:
    """Pack the tiles of each patient's slides into one bag.

    Parameters
    ----------
    store : FeatureStore, StormStore or VirtualExpression
        Where the slides' features lie.
    slides_of_patients : sequence of sequences of str
        For each patient the ids of their slides, in the order in which tiles are laid; a patient
        without slides gets an empty bag.
    cache : Path, optional
        Folder of packed arrays, with the mean of each bag beside them. What was packed once from
        the same feature files is mapped again; without a folder everything is held in memory.

    Returns
    -------
    Bags
        One a patient, in the given order. Tiles have places where every file has coordinates and
        its slide's microns per pixel.

    Raises
    ------
    FeatureError
        Naming the slide whose features are absent, damaged or not finite.
    StorageError
        If the cache cannot be written.
    """
    slide_ids = [slide_id for slides in slides_of_patients for slide_id in slides]
    if not slide_ids:
        raise FeatureError("none of these patients has a slide", where=store.folder)
    rows = _index(store, slide_ids)
    sizes = [sum(int(rows[slide]["n_tiles"]) for slide in of) for of in slides_of_patients]
    offsets = np.concatenate([[0], np.cumsum(sizes)]).astype(np.int64)
    placed = all(_has_places(rows[slide_id]) for slide_id in slide_ids)
    if cache is None:
        slides = [store.read(slide_id) for slide_id in slide_ids]
        values = np.concatenate([slide.features for slide in slides])
        return Bags.pack(
            values, offsets, np.concatenate(list(map(tile_places, slides))) if placed else None
        )
    path = cache / f"bags-{_digest(store, slides_of_patients, rows, _VALUES)[:32]}.npy"
    dtype, shape = np.dtype(store.contract.dtype), (int(offsets[-1]), store.contract.width)
    places = None
    if placed:
        places = cache / f"places-{_digest(store, slides_of_patients, rows, _PLACES)[:32]}.npy"
    if not (path.exists() and (places is None or places.exists())):
        _pack(store, slides_of_patients, rows, path, places)

    def packed() -> Bags:
        where = None
        if places is not None:
            where = PackedArray(places, np.dtype(np.float32), (shape[0], 2), offsets)
        return Bags.pack(PackedArray(path, dtype, shape, offsets), offsets, where)

    return _with_means(packed, path)


def _has_places(row: Row) -> bool:
    return isinstance(row["coords_digest"], str) and bool(np.isfinite(row["slide_mpp"] or np.nan))


def tile_places(slide: SlideFeatures) -> Array:
    """Centre of each tile in µm from the middle of all; half a tile's side cancels."""
    if slide.coords is None or slide.slide_mpp is None:
        raise FeatureError(
            "the position of its tiles is not known", where=f"slide {slide.slide_id}"
        )
    corners = slide.coords * slide.slide_mpp
    places: Array = (corners - corners.mean(axis=0)).astype(np.float32)
    return places


def _index(store: Store, slide_ids: list[str]) -> dict[str, Row]:
    """The index's rows of these slides, refused if one cannot be used."""
    table = store.index().set_index("slide_id")
    absent = [slide_id for slide_id in slide_ids if slide_id not in table.index]
    if absent:
        raise FeatureError(
            f"{len(absent)} slides have no features, the first is {absent[0]!r}",
            where=store.folder,
            fix="Extract or import them, or exclude their patients.",
        )
    wanted = table.loc[list(dict.fromkeys(slide_ids))]
    rows: dict[str, Row] = dict(zip(wanted.index, wanted.to_dict("records"), strict=True))
    damaged = [str(row["problem"]) for row in rows.values() if row["problem"]]
    if damaged:
        raise FeatureError(
            f"{len(damaged)} of the slides cannot be used, the first: {damaged[0]}",
            where=store.folder,
        )
    return rows


def _digest(
    store: Store,
    slides_of_patients: Sequence[Sequence[str]],
    rows: dict[str, Row],
    facts: tuple[str, ...],
) -> str:
    patients = [
        [[slide, *(str(rows[slide][fact]) for fact in facts)] for slide in slides]
        for slides in slides_of_patients
    ]
    return digest_value(
        {"format": _FORMAT, "contract": store.contract.digest, "patients": patients}
    )


def _pack(
    store: Store,
    slides_of_patients: Sequence[Sequence[str]],
    rows: dict[str, Row],
    path: Path,
    places: Path | None,
) -> None:
    """Read slide after slide, and write what is in them, if that is not there yet, and where."""
    n_tiles = sum(int(rows[slide]["n_tiles"]) for of in slides_of_patients for slide in of)
    placed: list[list[Array]] = []

    def features_of(slides: Sequence[str]) -> Iterator[Array]:
        placed.append([])
        for slide_id in slides:
            slide = store.read(slide_id)
            if len(slide.features) != rows[slide_id]["n_tiles"]:
                raise FeatureError(
                    f"slide {slide_id} has {len(slide.features)} tiles, its index says "
                    f"{rows[slide_id]['n_tiles']}",
                    where=store.folder,
                    fix="Delete index.parquet in this folder; it is derived and will be made "
                    "again.",
                )
            if places is not None:
                placed[-1].append(tile_places(slide))
            yield slide.features

    def bags() -> Iterator[Iterator[Array]]:
        yield from map(features_of, slides_of_patients)
        again = _index(store, list(rows))
        changed = [name for name in rows if again[name][_CONTENT] != rows[name][_CONTENT]]
        if changed:
            raise FeatureError(
                f"{len(changed)} slides were made again while they were packed, the first is "
                f"{changed[0]!r}",
                where=store.folder,
                fix="Wait until the features are complete, then run again.",
            )

    if path.exists():  # of the same features; only places are lacking, or are others by now
        for pieces in bags():
            deque(pieces, maxlen=0)
    else:
        with storage_errors(path):
            _beside(path).unlink(missing_ok=True)  # of an array that somebody deleted as damaged
        shape = n_tiles, store.contract.width
        write_packed(path, np.dtype(store.contract.dtype), shape, bags())
    if places is not None:
        write_packed(places, np.dtype(np.float32), (n_tiles, 2), placed)


def _beside(packed: Path) -> Path:
    """Where the means of a packed array's bags lie."""
    return packed.with_name(packed.name.replace("bags-", "means-"))


def _with_means(packed: Callable[[], Bags], array: Path) -> Bags:
    """Bags with the means that lie beside their packed array; worked out once, from that array."""
    path, bags = _beside(array), packed()
    some = bags.take(bags.sizes > 0)
    if not some.n_bags:
        return bags
    try:
        data = path.read_bytes()
    except FileNotFoundError:
        buffer = io.BytesIO()
        # Of other bags than those returned, so that whoever trains on these checks them himself.
        means = packed().take(bags.sizes > 0).pooled_mean()
        np.save(buffer, means, allow_pickle=False)
        data = buffer.getvalue() + _seal(buffer.getvalue())
        with atomic_write(path) as part:
            part.write_bytes(data)
    if _seal(data[:-_SEAL_BYTES]) != data[-_SEAL_BYTES:]:
        raise FeatureError("was changed after it was written", where=path, fix=DERIVED)
    means = map_array(path, np.dtype(np.float64), (some.n_bags, bags.width))
    return replace(bags, means=(KnownMeans(some.start, some.stop, means),))


def _seal(data: bytes) -> bytes:
    """SHA-256, which stands behind an array; NumPy reads no further than that."""
    return hashlib.sha256(data).digest()
