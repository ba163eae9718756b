"""How does cost grow with slides, tiles, genes, patients and models; where is it no longer linear?

    python benchmarks/growth.py [--picture docs/images/growth.png]

Each row is one kind of work at four sizes, each twice the one before, median of three rounds taken
in turns. The table gives the cost of one piece; the picture shows it as a multiple of that at the
least size, where linear growth is a flat line.
"""

from __future__ import annotations

import argparse
import tempfile
from collections.abc import Callable
from functools import partial
from pathlib import Path

import matplotlib as mpl
import numpy as np
import torch
from measuring import interleaved, section, table
from store_reading import contract_of
from training_growth import cohort, epoch, outcome_of

from storm_clinic.features.slide_features import SlideFeatures
from storm_clinic.features.store import FeatureStore
from storm_clinic.heads.fit import fit_tuned
from storm_clinic.storm.config import StormConfig
from storm_clinic.storm.inference import embed_tiles, tile_expression
from storm_clinic.storm.model import StormModel
from storm_clinic.study import ModelSpec

mpl.use("Agg")
from matplotlib import pyplot as plt

STEPS = (1, 2, 4, 8)
Calls = dict[int, Callable[[], object]]


def slides(folder: Path) -> Calls:
    """Opening a store through its index."""
    calls: Calls = {}
    for n in (125 * step for step in STEPS):
        store = FeatureStore.create(folder / str(n), contract_of(8))
        for at in range(n):
            store.write(SlideFeatures(f"s{at:05d}", np.ones((4, 8), np.float16)))
        calls[n] = store.index
    return calls


def storm(n_tiles: int, n_genes: int) -> tuple[StormModel, np.ndarray, np.ndarray]:
    """A tiny network with random weights, and tiles on a square grid with random embeddings."""
    config = StormConfig.of_size(
        "tiny", image_width=1280, n_genes=n_genes, pitch_um=100.0, image_axes=128, readout=0.7
    )
    features = np.random.default_rng(0).normal(size=(n_tiles, 1280)).astype(np.float16)
    places, side = np.arange(n_tiles), int(np.ceil(np.sqrt(n_tiles)))
    centres = np.stack([places % side, places // side], axis=1) * 100.0
    return StormModel(config).eval(), features, centres


def tiles() -> Calls:
    """STORM's embeddings of one slide."""
    return {
        n: partial(embed_tiles, *storm(n, 200), step_um=100.0)
        for n in (500 * step for step in STEPS)
    }


def genes() -> Calls:
    """Imputed expression of 2,000 tiles, block by block."""
    calls: Calls = {}
    spots = np.random.default_rng(0).normal(size=(2000, 128)).astype(np.float32)
    for n in (1000 * step for step in STEPS):
        model = storm(1, n)[0]

        def impute(model: StormModel = model, n: int = n) -> int:
            return sum(len(block) for block in tile_expression(model, spots, np.arange(n)))

        calls[n] = impute
    return calls


def patients() -> Calls:
    """An epoch of gated attention under Cox's loss, 20 tiles a patient."""
    return {n: epoch("cox", cohort(n), 10**9)[0] for n in (250 * step for step in STEPS)}


def models() -> Calls:
    """Settings of one model, each fitted on three inner folds; 100 patients, 5 epochs."""
    data, outcome = cohort(100), outcome_of("cox", 100)
    calls: Calls = {}
    for n in STEPS:
        spec = ModelSpec(
            name="abmil",
            head="attention-cox",
            inputs=("image",),
            options={"epochs": 5},
            tune={"dropout": [0.1 * at for at in range(n)]},
        )
        calls[n] = partial(fit_tuned, spec, data, outcome, seed=0)
    return calls


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--picture", type=Path)
    asked = parser.parse_args()
    torch.set_num_threads(1)
    rows, lines = [], {}
    with tempfile.TemporaryDirectory() as folder:
        kinds = {
            "slides, opening a store": slides(Path(folder)),
            "tiles, STORM": tiles(),
            "genes, STORM": genes(),
            "patients, epoch": patients(),
            "models, fit": models(),
        }
        for kind, calls in kinds.items():
            found = interleaved({str(n): call for n, call in calls.items()}, repetitions=3)
            each = [found.median(str(n)) / n for n in calls]
            lines[kind] = np.array(each) / each[0]
            sizes = " / ".join(f"{n:,}" for n in calls)
            rows.append([kind, sizes, *(f"{1e6 * one:,.0f}" for one in each)])
    header = ["work", "sizes", *(f"µs a piece at {step}x" for step in STEPS)]
    print(section("How cost grows", packages=("torch", "numpy"), body=[table(header, rows)]))
    if asked.picture:
        figure, axes = plt.subplots(figsize=(6.4, 3.6), layout="constrained")
        for kind, relative in lines.items():
            axes.plot(STEPS, relative, marker="o", label=kind)
        axes.set(
            xscale="log",
            xticks=STEPS,
            xticklabels=[f"{step}x" for step in STEPS],
            ylim=(0, None),
            xlabel="size, as a multiple of the least",
            ylabel="cost a piece, relative",
        )
        axes.minorticks_off()
        axes.axhline(1.0, color="0.7", linewidth=0.8, zorder=0)
        axes.legend(frameon=False, fontsize=8)
        figure.savefig(asked.picture, dpi=150)


if __name__ == "__main__":
    main()
