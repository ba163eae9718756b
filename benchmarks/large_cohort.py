"""What does a cohort that is larger than memory cost, from feature files to risks?

    python benchmarks/large_cohort.py [--slides 600] [--tiles 15000] [--folder FOLDER]

So many feature files of random float16 tiles, 1536 numbers each, one slide a patient, are written
as any program's are, packed, and read from the packed file: one epoch of Cox training of gated
attention (two passes, since no activations are kept), and risks of everybody. Each is done by a
process of its own. Memory is the peak of anonymous pages (RssAnon) above what the process had
before; pages of the mapped file can be dropped by the system at any time and do not count. Twice
the cohort's size is needed on the disk.
"""

from __future__ import annotations

import argparse
import multiprocessing
import os
import tempfile
from pathlib import Path

import numpy as np
from attention_network import attention_network, image_cohort
from large_bag import measured
from measuring import section, table

from storm_clinic.cohort.outcome import Survival
from storm_clinic.features.contract import FeatureContract
from storm_clinic.features.slide_features import SlideFeatures
from storm_clinic.features.store import FeatureStore
from storm_clinic.heads.bag_cache import build_bags
from storm_clinic.heads.bags import Bags
from storm_clinic.heads.objectives import CoxObjective
from storm_clinic.heads.patient_batches import STREAMED_TILES, PatientBatches
from storm_clinic.heads.training import Schedule, outputs_of, train

WIDTH, HIDDEN, ATTENTION = 1536, 32, 16


def write_store(folder: Path, n_slides: int, n_tiles: int) -> None:
    """Slides that differ in which feature is which, which is enough to be told apart."""
    contract = FeatureContract("random", None, WIDTH, mpp=None, tile_px=None, provenance="declared")
    store = FeatureStore.create(folder, contract)
    rng = np.random.default_rng(0)
    tiles = rng.standard_normal((n_tiles, WIDTH), dtype=np.float32).astype(np.float16)
    for number in range(n_slides):
        features = np.roll(tiles, number, axis=1)
        store.write(SlideFeatures(slide_id=f"s{number:05d}", features=features, coords=None))


class Cohort:
    """One slide a patient, and a network; what is asked of them is measured from outside."""

    def __init__(self, store: FeatureStore, cache: Path) -> None:
        self._store, self._cache = store, cache
        self._patients = [[slide_id] for slide_id in store.slide_ids()]
        n = len(self._patients)
        self._objective = CoxObjective(Survival.from_arrays(np.arange(n) + 1.0, np.arange(n) % 2))
        self._network = attention_network(WIDTH, HIDDEN, ATTENTION)
        self._bags: Bags | None = None

    def index(self) -> None:
        self._store.index()

    def open(self) -> None:
        self._bags = build_bags(self._store, self._patients, self._cache)

    def epoch(self) -> None:
        self._epoch(bfloat16=False)

    def bfloat16_epoch(self) -> None:
        self._epoch(bfloat16=True)

    def _epoch(self, *, bfloat16: bool) -> None:
        schedule = Schedule(learning_rate=1e-4, weight_decay=1e-5, bfloat16=bfloat16)
        batches = self._batches(bfloat16=bfloat16)
        next(train(self._network, batches, self._objective, schedule, seed=0))

    def risks(self) -> None:
        assert np.isfinite(outputs_of(self._network, self._batches(bfloat16=False))).all()

    def _batches(self, *, bfloat16: bool) -> PatientBatches:
        assert self._bags is not None
        encoded = image_cohort(self._bags)
        return PatientBatches(encoded, bfloat16=bfloat16, streamed_tiles=STREAMED_TILES)


# What is measured, how often it reads all tiles, whether the packed cohort is open before, and the
# method that does it.
CALLS = (
    ("index of the store, first time", 0, False, Cohort.index.__name__),
    ("packing, with the means of bags", 2, False, Cohort.open.__name__),
    ("opening what was packed", 0, False, Cohort.open.__name__),
    ("an epoch, fp32", 2, True, Cohort.epoch.__name__),
    ("an epoch, bf16", 2, True, Cohort.bfloat16_epoch.__name__),
    ("risks of everybody", 1, True, Cohort.risks.__name__),
)


def measured_alone(folder: Path, name: str, opened: bool) -> tuple[float, float]:
    """Peak memory in MiB and seconds of one call, in a process that did nothing before."""
    cohort = Cohort(FeatureStore.open(folder / "store"), folder / "cache")
    if opened:
        cohort.open()
    return measured(getattr(cohort, name))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--slides", type=int, default=600)
    parser.add_argument("--tiles", type=int, default=15_000)
    parser.add_argument("--folder", type=Path, help="where there is room; default: temporary")
    asked = parser.parse_args()
    n_bytes = asked.slides * asked.tiles * WIDTH * 2
    memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    rows = []
    spawn = multiprocessing.get_context("spawn")
    with tempfile.TemporaryDirectory(dir=asked.folder) as folder:
        write_store(Path(folder) / "store", asked.slides, asked.tiles)
        for what, passes, opened, name in CALLS:
            with spawn.Pool(1) as pool:
                mib, seconds = pool.apply(measured_alone, (Path(folder), name, opened))
            rate = f"{passes * n_bytes / seconds / 1e9:.2f}" if passes else ""
            rows.append([what, f"{seconds:.2f}", rate, f"{mib:.0f}"])
    print(
        section(
            "A cohort larger than memory",
            packages=("torch", "numpy", "h5py"),
            body=[
                f"{asked.slides} slides of {asked.tiles} tiles of {WIDTH} float16 numbers: "
                f"{n_bytes / 1e9:.1f} GB of tiles, {memory / 1e9:.1f} GB of memory. One run; gated "
                f"attention, hidden {HIDDEN}, one thread.",
                table(["", "s", "GB/s of tiles read", "memory, MiB"], rows),
            ],
        )
    )


if __name__ == "__main__":
    main()
