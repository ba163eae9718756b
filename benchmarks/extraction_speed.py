"""How fast is `extract` where the encoder costs nothing? Tiles decoded here, beside OpenSlide.

    python benchmarks/extraction_speed.py [--slide SLIDE] [--times 16] [--repetitions 3]

Two slides, each a mosaic of a real slide's encoded tiles with levels 4 and 16 times smaller, are
extracted whole: reader process started, tissue found, QC picture drawn, tiles of 224 px read at
0.5 µm from a scan at 0.25, encoded, and the feature files written. The encoder keeps every 56th
pixel of a tile, so that it takes no time and the files still show every difference. Both ways
run the same code with one reader; one has `STORM_CLINIC_READ_WITH=openslide`. That their files are
byte for byte the same is checked. Slides are of 3,000 tiles: what every run costs (a process to
be started, tissue to be found) weighs as it does on real slides, of which a large one has 15,000.
"""

from __future__ import annotations

import argparse
import os
import tempfile
from dataclasses import dataclass
from functools import partial
from itertools import count
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import torch
from measuring import interleaved, section, table
from mosaic_slide import add_slide_option, write_mosaic

from storm_clinic.features.extraction import extract_slides
from storm_clinic.features.store import FeatureContract, FeatureStore
from storm_clinic.features.tile_reading import TileReading
from storm_clinic.features.tiling import SlideJob
from storm_clinic.slides.tiles import TileGeometry
from storm_clinic.slides.tissue import TissueParameters
from storm_clinic.slides.whole_slide import READ_WITH

CPU = torch.device("cpu")
SCAN_MPP = 0.25
GEOMETRY = TileGeometry(224, 0.5)
WIDTH = (GEOMETRY.tile_px // 56) ** 2 * 3
PEER, OURS = "OpenSlide decodes", "tiles decoded here"
PACKAGES = ("storm-clinic", "openslide-python", "openslide-bin", "simplejpeg", "numpy", "torch")


@dataclass(frozen=True)
class NullEncoder:
    """Every 56th pixel of a tile."""

    card: Any
    device: torch.device = CPU
    precision: str = "fp32"
    runtime: str = "null"

    def encode(self, tiles: Any, *, pad_to: int | None = None) -> Any:  # noqa: ARG002
        return tiles[:, ::56, ::56].reshape(len(tiles), WIDTH).float()


def extract(slides: dict[str, Path], folder: Path, read_with: str) -> FeatureStore:
    os.environ[READ_WITH] = read_with
    tissue = TissueParameters()
    contract = FeatureContract(
        "null", "0" * 64, WIDTH, GEOMETRY.mpp, GEOMETRY.tile_px, tissue=tissue.as_dict()
    )
    store = FeatureStore.create(folder, contract)
    results = extract_slides(
        [SlideJob(slide_id, path) for slide_id, path in slides.items()],
        cast("Any", NullEncoder(SimpleNamespace(name="null"))),
        store,
        TileReading(GEOMETRY, tissue, n_readers=1, batch_size=64),
    )
    assert all((result.status, result.n_failed_tiles) == ("written", 0) for result in results)
    return store


def main() -> None:
    parser = argparse.ArgumentParser()
    add_slide_option(parser)
    parser.add_argument("--times", type=int, default=16)
    parser.add_argument("--repetitions", type=int, default=3)
    given = parser.parse_args()
    with tempfile.TemporaryDirectory() as scratch:
        folder = Path(scratch)
        slides = {
            name: write_mosaic(folder / f"{name}.svs", given.slide, times=n, mpp=SCAN_MPP)
            for name, n in (("a", given.times), ("b", given.times - 1))
        }
        number = count()
        stores: dict[str, FeatureStore] = {}

        def run(way: str, read_with: str) -> None:
            stores[way] = extract(slides, folder / f"run_{next(number)}", read_with)

        calls = {PEER: partial(run, PEER, "openslide"), OURS: partial(run, OURS, "")}
        times = interleaved(calls, repetitions=given.repetitions, warm_up=0)
        for name in slides:
            slow, ours = (stores[way].path(name).read_bytes() for way in (PEER, OURS))
            assert slow == ours
        n_tiles = sum(len(stores[OURS].read(name).features) for name in slides)
    print(
        section(
            "Extraction with an encoder that takes no time",
            packages=PACKAGES,
            body=[
                f"{n_tiles} tiles of 224 px at 0.5 µm from two mosaics of {given.slide.name} at "
                "0.25 µm, one reader process; whole runs, from its start to the written files, "
                "which are byte for byte the same; ratio of medians (least..greatest).",
                table(
                    [f"{PEER} (s)", f"{OURS} (s)", "ratio"],
                    [
                        [
                            f"{times.median(PEER):.1f}",
                            f"{times.median(OURS):.1f}",
                            times.ratio(PEER, OURS),
                        ]
                    ],
                ),
            ],
        )
    )


if __name__ == "__main__":
    main()
