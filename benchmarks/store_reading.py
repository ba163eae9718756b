"""How fast is a slide read from the store, beside a plain memory map and beside (1, d) chunks?

    python benchmarks/store_reading.py [--tiles 15000] [--repetitions 7] [--slides 10000]

One slide of random float16 embeddings is written by our writer, and the same values as an HDF5
dataset in chunks of one tile, the layout of CLAM's and other pipelines' files, which h5py makes of
``maxshape=(None, d)`` and ``chunks=(1, d)``. All three ways give the same array, which is checked.
Ours opens the file, checks its structure and contract, and maps the values; a store that has mapped
the file before, as in every epoch but the first, only asks whether it is the same. The plain memory
map is told where the values lie. `FeatureStore.read` also holds every value against its SHA-256.
Files are in the page cache for all of them.

Then a store of many small slides is opened for a study: its index, against its files one by one.
"""

from __future__ import annotations

import argparse
import shutil
import tempfile
import time
from pathlib import Path
from statistics import median

import h5py
import numpy as np
from measuring import interleaved, section, table

from storm_clinic.features.contract import FeatureContract
from storm_clinic.features.file_reader import read_header
from storm_clinic.features.slide_features import SlideFeatures
from storm_clinic.features.store import FeatureStore

WIDTH, RANDOM = 1536, 4096


def contract_of(width: int) -> FeatureContract:
    return FeatureContract(
        "random", None, width=width, mpp=None, tile_px=None, provenance="declared"
    )


def reading(folder: Path, n_tiles: int, repetitions: int) -> list[str]:
    """Tables of full and random reads of one slide."""
    rng = np.random.default_rng(0)
    values = rng.standard_normal((n_tiles, WIDTH), dtype=np.float32).astype(np.float16)
    store = FeatureStore.create(folder / "store", contract_of(WIDTH))
    path = store.write(SlideFeatures("slide", values))
    header = read_header(path, store.contract)
    chunked = folder / "chunked.h5"
    with h5py.File(chunked, "w") as file:
        file.create_dataset("features", data=values, chunks=(1, WIDTH), maxshape=(None, WIDTH))
    rows = np.sort(rng.choice(n_tiles, min(RANDOM, n_tiles), replace=False))

    def plain() -> np.ndarray:
        return np.memmap(path, header.dtype, "r", header.offset, (n_tiles, WIDTH))

    def anew() -> FeatureStore:
        return FeatureStore(store.folder, store.contract)

    def in_chunks(at: object) -> np.ndarray:
        with h5py.File(chunked) as file:
            return file["features"][at]

    shown = []
    for what, at in (("every tile", slice(None)), (f"{len(rows)} random tiles", rows)):
        calls = {
            "memory map": lambda at=at: np.array(plain()[at]),
            "(1, d) chunks": lambda at=at: in_chunks(at),
            "ours": lambda at=at: np.array(store.memmap("slide")[at]),
            "ours, first time": lambda at=at: np.array(anew().memmap("slide")[at]),
            "ours, every value checked": lambda at=at: store.read("slide").features[at],
        }
        for name, call in calls.items():
            assert np.array_equal(call(), values[at]), name
        timings = interleaved(calls, repetitions=repetitions)
        shown.append(f"{what.capitalize()}: how many times longer the peer takes.")
        peers = ("memory map", "(1, d) chunks")
        ours = ("ours", "ours, first time", "ours, every value checked")
        cells = [[name, *(str(timings.ratio(peer, name)) for peer in peers)] for name in ours]
        shown.append(table(["", *peers], cells))
    return shown


def opening(folder: Path, n_slides: int, repetitions: int) -> list[str]:
    """Opening a store through its index, and the same facts from the files."""
    store = FeatureStore.create(folder / "many", contract_of(8))
    first = store.write(SlideFeatures("s00000", np.ones((4, 8), np.float16)))
    content = first.read_bytes()
    for at in range(1, n_slides):  # copies are made faster; that the id inside is another is listed
        (store.folder / f"s{at:05d}.h5").write_bytes(content)
    seconds = []
    for _ in range(1 + repetitions):
        start = time.perf_counter()
        assert len(store.index()) == n_slides
        seconds.append(time.perf_counter() - start)
    made, *opened = seconds
    return [
        f"Opening a store of {n_slides} slides: {median(opened):.2f} s "
        f"({min(opened):.2f}..{max(opened):.2f}) through its index. The first time every file was "
        f"opened, which took {made:.1f} s, {made / median(opened):.0f} times as long.",
    ]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--tiles", type=int, default=15_000)
    parser.add_argument("--repetitions", type=int, default=7)
    parser.add_argument("--slides", type=int, default=10_000)
    asked = parser.parse_args()
    folder = Path(tempfile.mkdtemp())
    try:
        body = [
            f"One slide of {asked.tiles} tiles x {WIDTH} float16; {asked.repetitions} repetitions.",
            *reading(folder, asked.tiles, asked.repetitions),
            *opening(folder, asked.slides, asked.repetitions),
        ]
    finally:
        shutil.rmtree(folder)
    print(section("Reading the feature store", packages=("numpy", "h5py"), body=body))


if __name__ == "__main__":
    main()
