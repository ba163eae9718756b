"""What does STORM cost a slide, beside the encoder whose embeddings it reads?

    python benchmarks/storm_speed.py [--tiles 15000] [--genes 5000] [--repeats 3]

One torch thread. Embeddings and weights are random: neither changes the work. The encoder
(efficientnet-lite0) embeds random pixels, 16 tiles a batch; STORM (tiny) turns that many cached
embeddings into spots, and the expression of every tile into blocks that are counted and dropped,
where a writer would write them. Both alternate; medians and their spread are printed. Peak memory
is that of a process of its own that only runs STORM.
"""

from __future__ import annotations

import argparse
import multiprocessing
import platform
import resource
import statistics
import time

import numpy as np
import torch

from storm_clinic.encoders.hub import load_encoder
from storm_clinic.storm.config import StormConfig
from storm_clinic.storm.inference import embed_tiles, slide_expression, tile_expression
from storm_clinic.storm.model import StormModel

ENCODED = 256  # tiles a repetition of the encoder


def storm(n_tiles: int, n_genes: int, per_tile: bool) -> float:
    """Seconds for one slide on a square grid."""
    rng = np.random.default_rng(0)
    features = rng.normal(size=(n_tiles, 1280)).astype(np.float16)
    side = int(np.ceil(np.sqrt(n_tiles)))
    places = np.arange(n_tiles)
    centres = np.stack([places % side, places // side], axis=1) * 100.0
    config = StormConfig.of_size(
        "tiny", image_width=1280, n_genes=n_genes, pitch_um=100.0, image_axes=128, readout=0.7
    )
    model = StormModel(config).eval()
    genes = np.arange(n_genes)
    start = time.perf_counter()
    spots = embed_tiles(model, features, centres, step_um=100.0)
    slide_expression(model, spots, genes)
    if per_tile:
        written = sum(
            block.astype(np.float16).nbytes for block in tile_expression(model, spots, genes)
        )
        assert written == 2 * n_tiles * n_genes
    return time.perf_counter() - start


def encoder_seconds() -> float:
    """Seconds for `ENCODED` tiles."""
    encoder = load_encoder("efficientnet-lite0", device="cpu")
    pixels = torch.randint(0, 255, (16, 224, 224, 3), dtype=torch.uint8)
    encoder.encode(pixels)
    start = time.perf_counter()
    for _ in range(ENCODED // len(pixels)):
        encoder.encode(pixels)
    return time.perf_counter() - start


def peak(arguments: tuple[int, int, bool]) -> float:
    """GiB that a process reaches which runs STORM once."""
    torch.set_num_threads(1)
    storm(*arguments)
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--tiles", type=int, default=15_000)
    parser.add_argument("--genes", type=int, default=5_000)
    parser.add_argument("--repeats", type=int, default=3)
    asked = parser.parse_args()
    torch.set_num_threads(1)
    rates: dict[str, list[float]] = {
        "encoder": [],
        "STORM, slide only": [],
        "STORM, every tile": [],
    }
    for _ in range(asked.repeats):
        rates["encoder"].append(ENCODED / encoder_seconds())
        for name, per_tile in (("STORM, slide only", False), ("STORM, every tile", True)):
            rates[name].append(asked.tiles / storm(asked.tiles, asked.genes, per_tile))
    print(f"{platform.platform()}, Python {platform.python_version()}, torch {torch.__version__}")
    print(f"{asked.tiles} tiles, {asked.genes} genes, one thread, {asked.repeats} repetitions")
    base = statistics.median(rates["encoder"])
    for name, found in rates.items():
        middle = statistics.median(found)
        print(
            f"{name:20s} {middle:8.0f} tiles/s ({min(found):.0f} to {max(found):.0f}), "
            f"{middle / base:.1f} times the encoder's rate"
        )
    with multiprocessing.get_context("spawn").Pool(1, maxtasksperchild=1) as pool:
        for per_tile in (False, True):
            used = pool.map(peak, [(asked.tiles, asked.genes, per_tile)])[0]
            print(f"peak memory with every tile {per_tile}: {used:.2f} GiB")


if __name__ == "__main__":
    main()
