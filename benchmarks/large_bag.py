"""What does a patient with a million tiles cost in memory and time, streamed and held as a whole?

    python benchmarks/large_bag.py [--tiles 1000000] [--width 128]

A memory-mapped float16 file holds one such bag and twenty of 2,000 tiles. One exact Cox gradient
(hidden 64, attention 32, 4 latents, 8 top tiles) is taken with the large bag streamed in chunks and
with it held as a whole: of gated attention for three sizes, then of every pooling of ours, and of
the fusion ``cross``, for the middle one. Memory is the peak of anonymous pages (RssAnon) above what
the process had before; pages of the mapped file can be dropped by the system at any time and do not
count.
"""

from __future__ import annotations

import argparse
import multiprocessing
import tempfile
import threading
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch
from measuring import section, table

from storm_clinic.cohort.outcome import Survival
from storm_clinic.heads.architecture import Architecture, Fusion
from storm_clinic.heads.bags import Bags
from storm_clinic.heads.network import StepDraws, TileNetwork
from storm_clinic.heads.network_inputs import Encoded, TileScale
from storm_clinic.heads.objectives import CoxObjective
from storm_clinic.heads.patient_batches import STREAMED_TILES, PatientBatches
from storm_clinic.heads.training import Schedule, Step, accumulate_gradient, one_thread

SMALL, SMALL_TILES = 20, 2000
N_COVARIATES = 2  # of the fusion cross, in which they ask the tiles
POOLINGS = ("mean", "max", "attention", "top", "clam", "evidence", "transformer", "storm")


def cohort(path: Path, n_tiles: int, width: int, n_covariates: int) -> Encoded:
    """The bags of that file, which is made if it is not there."""
    sizes = np.array([n_tiles, *[SMALL_TILES] * SMALL])
    if not path.exists():
        rng = np.random.default_rng(0)
        with path.open("wb") as file:
            for first in range(0, sizes.sum(), 50_000):
                n = min(50_000, sizes.sum() - first)
                block = rng.standard_normal((n, width), dtype=np.float32)
                file.write(block.astype(np.float16).data)
    values = np.memmap(path, np.float16, "r", shape=(int(sizes.sum()), width))
    bags = Bags.pack(values, np.concatenate([[0], np.cumsum(sizes)]))
    here = {"image": np.ones(len(bags), dtype=np.bool_)}
    scale = TileScale(np.full(width, 0.1), np.ones(width))
    covariates = np.random.default_rng(1).normal(size=(len(bags), n_covariates))
    return Encoded({"image": (bags, scale)}, {}, here, covariates, ())


class Gradient:
    """The gradient of a cohort, taken anew at each call."""

    def __init__(self, encoded: Encoded, pooling: str, fusion: Fusion, *, streamed: bool) -> None:
        width = encoded.tiles["image"][0].width
        plan = Architecture(
            pooling=pooling,
            fusion=fusion,
            tiles={"image": width},
            tables={},
            n_clinical=encoded.clinical.shape[1],
            shared=(False,),
            n_branches=1,
            n_hidden=64,
            n_attention=32,
            n_top=8,
            n_latents=4,
        )
        weight = 0.3 if pooling == "clam" else 0.0
        self._schedule = Schedule(learning_rate=0.0, weight_decay=0.0, instance_weight=weight)
        self.network = TileNetwork(plan, seed=0)
        most = STREAMED_TILES if streamed else None
        self._batches = PatientBatches(encoded, streamed_tiles=most, resident_bytes=0)
        n = len(encoded)
        self._objective = CoxObjective(Survival.from_arrays(np.arange(n) + 1.0, np.ones(n)))
        self.loss = float("nan")

    def __call__(self) -> None:
        self.network.zero_grad()
        step = Step(StepDraws({}, {}), 0)
        with one_thread():
            self.loss = accumulate_gradient(
                self.network, self._batches, step, self._objective, self._schedule
            )

    @property
    def values(self) -> torch.Tensor:
        """All but that of the covariates' own slopes, large beside the rest and without tiles."""
        found = self.network.named_parameters()
        tiles = [p.grad for name, p in found if not name.startswith("from_clinical")]
        return torch.cat([gradient.ravel() for gradient in tiles if gradient is not None])


def anonymous_mib() -> float:
    """Memory of this process that no file stands behind."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith("RssAnon")) / 1024


def measured(call: Callable[[], object]) -> tuple[float, float]:
    """Peak of anonymous memory in MiB above what was there before, and seconds, of one call."""
    before, peak, done = anonymous_mib(), 0.0, threading.Event()

    def watch() -> None:
        nonlocal peak
        while not done.is_set():
            peak = max(peak, anonymous_mib())
            time.sleep(0.005)

    watcher = threading.Thread(target=watch)
    watcher.start()
    start = time.perf_counter()
    call()
    seconds = time.perf_counter() - start
    done.set()
    watcher.join()
    return peak - before, seconds


def compared(path: Path, n_tiles: int, width: int, pooling: str, fusion: Fusion) -> list[str]:
    """What a row of a table says, in a process that did nothing before."""
    encoded = cohort(path, n_tiles, width, N_COVARIATES if fusion == "cross" else 0)
    streamed, whole = (
        Gradient(encoded, pooling, fusion, streamed=streamed) for streamed in (True, False)
    )
    found = [measured(streamed), measured(whole)]
    apart = (streamed.values - whole.values).norm() / whole.values.norm()
    return [
        *(f"{mib:.0f}" for mib, _ in found),
        *(f"{seconds:.1f}" for _, seconds in found),
        f"{abs(streamed.loss - whole.loss):.1e}",
        f"{apart:.1e}",
    ]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--tiles", type=int, default=1_000_000)
    parser.add_argument("--width", type=int, default=128)
    asked = parser.parse_args()
    middle = asked.tiles // 2
    sizes = [asked.tiles // 8, middle, asked.tiles]
    spawn = multiprocessing.get_context("spawn")
    with tempfile.TemporaryDirectory() as folder:

        def row(n_tiles: int, pooling: str, fusion: Fusion = "late") -> list[str]:
            with spawn.Pool(1) as pool:
                path = Path(folder) / f"{n_tiles}.f16"
                return pool.apply(compared, (path, n_tiles, asked.width, pooling, fusion))

        by_size = [[f"{n_tiles:,}", *row(n_tiles, "attention")] for n_tiles in sizes]
        by_pooling = [[f"`{pooling}`", *row(middle, pooling)] for pooling in POOLINGS]
        by_pooling.append(["`attention`, `cross`", *row(middle, "attention", "cross")])
    header = ["streamed, MiB", "whole, MiB", "streamed, s", "whole, s"]
    header += ["loss apart", "gradient apart (relative)"]
    body = [
        f"{asked.width} numbers a tile, `attention`, one look each:",
        table(["tiles of the largest bag", *header], by_size),
        f"{middle:,} tiles, one look each:",
        table(["pooling", *header], by_pooling),
    ]
    print(section("A patient with a million tiles", packages=("torch", "numpy"), body=body))


if __name__ == "__main__":
    main()
