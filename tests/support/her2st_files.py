"""Small simulated sections in files of the her2st layout."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pandas as pd
from PIL import Image

SIDE, GENES = 5, ("ACTB", "ERBB2", "KRT5", "CD3E", "MUC1")


def write_section(folder: Path, name: str, seed: int) -> None:
    """Brightness of the tissue sets how much of ERBB2 there is."""
    rng = np.random.default_rng(seed)
    y, x = np.mgrid[0:SIDE, 0:SIDE]
    step_px = 290  # 200 µm at 0.688 µm per pixel
    shade = rng.integers(40, 220, (SIDE, SIDE))
    pixels = np.kron(shade, np.ones((step_px, step_px), dtype=int))
    for part in ("images", "counts", "spots"):
        (folder / part).mkdir(parents=True, exist_ok=True)
    picture = np.repeat(pixels[..., None], 3, axis=2).astype(np.uint8)
    Image.fromarray(picture).save(folder / "images" / f"{name}.png")
    counts = rng.poisson(5, (SIDE * SIDE, len(GENES)))
    counts[:, 1] += shade.reshape(-1)
    names = [f"{a}x{b}" for a, b in zip(x.flat, y.flat, strict=True)]
    table = pd.DataFrame(counts, index=names, columns=list(GENES))
    table.to_csv(folder / "counts" / f"{name}.tsv.gz", sep="\t")
    spots = pd.DataFrame(
        {
            "x": x.flat,
            "y": y.flat,
            "pixel_x": step_px * x.reshape(-1) + step_px / 2,
            "pixel_y": step_px * y.reshape(-1) + step_px / 2,
            "selected": 1,
        }
    )
    spots.to_csv(folder / "spots" / f"{name}.tsv", sep="\t", index=False)


def write_sections(folder: Path) -> None:
    """Two sections of patient A and one of B."""
    for name, seed in (("A1", 1), ("A2", 2), ("B1", 3)):
        write_section(folder, name, seed)
