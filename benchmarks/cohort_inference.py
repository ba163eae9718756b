"""How near to the memory's bandwidth does a cohort's inference from the cache come?

    python benchmarks/cohort_inference.py [--tiles 100000] [--repetitions 5]

A packed cohort of random float16 embeddings (1536 numbers a tile, bags of 500 tiles on average) is
mapped from the cache's file, already in the page cache. Of it are taken: the sum of its bytes as
64-bit integers, which nothing can read faster on one thread; the pooled mean of each patient, which
is all that a pooled head reads: worked out from all tiles, as when a cohort is packed, read from
beside the packed cohort, and again in a process that has read it; risks of a gated-attention
network (hidden 32, the default); and, as peers, the mean of each bag as NumPy gives it in float64
(``bag.mean(axis=0, dtype=float64)``) and as torch does (``bag.float().mean(0)``). The second table
says how the pooled mean's time grows with patients, and the third with tiles a patient.
"""

from __future__ import annotations

import argparse
import tempfile
from dataclasses import replace
from pathlib import Path

import numpy as np
import torch
from attention_network import attention_network, image_cohort
from measuring import interleaved, section, table

from storm_clinic.heads.bags import Bags
from storm_clinic.heads.kept_rows import KnownMeans
from storm_clinic.heads.patient_batches import PatientBatches
from storm_clinic.heads.training import outputs_of

WIDTH, MEAN_TILES = 1536, 500


def packed(path: Path, n_tiles: int) -> np.ndarray:
    """A file of random tiles, mapped."""
    rng = np.random.default_rng(0)
    with path.open("wb") as file:
        for first in range(0, n_tiles, 10_000):
            n = min(10_000, n_tiles - first)
            file.write(rng.standard_normal((n, WIDTH), dtype=np.float32).astype(np.float16).data)
    return np.memmap(path, np.float16, "r", shape=(n_tiles, WIDTH))


def bags_of(values: np.ndarray, n_bags: int) -> Bags:
    """So many bags of different sizes."""
    rng = np.random.default_rng(1)
    cuts = np.sort(rng.choice(np.arange(1, len(values)), n_bags - 1, replace=False))
    return Bags.pack(values, np.concatenate([[0], cuts, [len(values)]]))


def beside(bags: Bags, path: Path) -> Bags:
    """As `bag_cache.build_bags` finds a cohort that was packed before."""
    means = np.load(path, mmap_mode="r")
    return replace(bags, kept=None, means=(KnownMeans(bags.start, bags.stop, means),))


class Network:
    """A network's risks of the cohort."""

    def __init__(self, bags: Bags) -> None:
        self._network = attention_network(WIDTH, 32, 16)
        self._batches = PatientBatches(image_cohort(bags), resident_bytes=0)

    def __call__(self) -> np.ndarray:
        return outputs_of(self._network, self._batches)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--tiles", type=int, default=100_000)
    parser.add_argument("--repetitions", type=int, default=5)
    asked = parser.parse_args()
    torch.set_num_threads(1)
    with tempfile.TemporaryDirectory() as folder:
        values = packed(Path(folder) / "cohort.f16", asked.tiles)
        words = values.reshape(-1).view(np.int64)
        bags = bags_of(values, asked.tiles // MEAN_TILES)
        each = range(len(bags))

        def in_torch() -> np.ndarray:
            found = [torch.from_numpy(np.array(bags.bag(at))).float().mean(0) for at in each]
            return torch.stack(found).numpy()

        calls = {
            "reading": lambda: int(words.sum()),
            "ours, pooled mean": lambda: replace(bags, kept=None).pooled_mean(),
            "ours, pooled mean from beside the cohort": lambda: beside(bags, means).pooled_mean(),
            "ours, pooled mean again": bags.pooled_mean,
            "ours, gated attention": Network(bags),
            "NumPy's mean of each bag, float64": lambda: np.stack(
                [bags.bag(at).mean(axis=0, dtype=np.float64) for at in each]
            ),
            "torch's mean of each bag, float32": in_torch,
        }
        means = Path(folder) / "means.npy"
        np.save(means, bags.pooled_mean())  # from here on it is "again"
        timings = interleaved(calls, repetitions=asked.repetitions)
        gigabytes = values.nbytes / 1e9
        ours = "ours, pooled mean"
        rows = [
            [
                name,
                f"{gigabytes / timings.median(name):.2f}",
                f"{100 * timings.ratio('reading', name).value:.0f}%",
                str(timings.ratio(name, ours)),
            ]
            for name in calls
        ]
        assert np.allclose(
            calls["torch's mean of each bag, float32"](), bags.pooled_mean(), atol=1e-5
        )
        growth = {}
        for share in (0.125, 0.25, 0.5, 1.0):
            part = values[: int(share * asked.tiles)]
            growth[f"{len(part) // MEAN_TILES} patients"] = bags_of(part, len(part) // MEAN_TILES)
        for n_bags in (asked.tiles // 10, asked.tiles // 100, 10, 1):
            growth[f"{n_bags} bags of {asked.tiles // n_bags} tiles"] = bags_of(values, n_bags)
        firsts = {
            name: lambda part=part: replace(part, kept=None).pooled_mean()
            for name, part in growth.items()
        }
        grown = interleaved(firsts, repetitions=3)
        cells = [
            [name, f"{grown.median(name) * 1e6 / part.sizes.sum():.2f}"]
            for name, part in growth.items()
        ]
    body = [
        f"{asked.tiles:,} tiles of {WIDTH} float16 numbers, {gigabytes:.1f} GB, {len(bags)} "
        f"patients, one thread, {asked.repetitions} repetitions.",
        table(["", "GB/s", "share of reading", "times ours, pooled mean"], rows),
        "How the pooled mean grows: microseconds a tile.",
        table(["cohort", "µs a tile"], cells),
    ]
    print(section("Inference of a cohort from the cache", packages=("numpy", "torch"), body=body))


if __name__ == "__main__":
    main()
