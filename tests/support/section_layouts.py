"""One small simulated section in each layout that a YAML can name, with its picture."""

from __future__ import annotations

import json
from pathlib import Path

import h5py
import numpy as np
import pandas as pd
import tifffile
from her2st_files import GENES
from PIL import Image
from scipy import sparse

SIDE = 6
YAML = """\
sections:
  - {layout: hest, root: "${DATA}/hest", samples: [T1]}
  - layout: space-ranger
    root: ${DATA}/visium
    name: v1
    patient: q
    image: ${DATA}/visium/full.png
  - layout: h5ad
    path: ${DATA}/any.h5ad
    name: h1
    patient: r
    image: ${DATA}/any.png
    technology: st
    grid: square
    spot_um: 100.0
    pitch_um: 200.0
    mpp: 2.0
  - layout: xenium
    path: ${DATA}/xenium/transcripts.parquet
    name: x1
    patient: s
    image: ${DATA}/xenium/he.png
    mpp: 0.5
    to_image: [[0.0, 2.0, 10.0], [2.0, 0.0, 20.0]]
    panel: ${DATA}/xenium/panel.txt
  - layout: cosmx
    path: ${DATA}/cosmx/s_tx_file.csv
    name: c1
    patient: s
    image: ${DATA}/cosmx/he.png
    mpp: 0.5
    transcript_mpp: 0.12
"""


def write_layouts(folder: Path) -> None:
    """Everything that the YAML above names, under ``DATA``."""
    rng = np.random.default_rng(0)
    _hest(folder / "hest", rng)
    _visium(folder / "visium", rng)
    _h5ad(folder / "any.h5ad", rng, step_px=100.0)
    picture(folder / "any.png", 700, rng)
    _transcripts(folder, rng)


def picture(path: Path, side: int, rng: np.random.Generator) -> None:
    pixels = rng.integers(60, 220, (side, side, 3), dtype=np.uint8)
    if path.suffix == ".tif":
        tifffile.imwrite(path, pixels, photometric="rgb")
    else:
        Image.fromarray(pixels).save(path)


def _counts(n: int, rng: np.random.Generator) -> sparse.csr_matrix:
    return sparse.csr_matrix(rng.poisson(5.0, (n, len(GENES))).astype(np.float32))


def _square(step: float) -> np.ndarray:
    y, x = np.mgrid[0:SIDE, 0:SIDE]
    return (np.stack([x, y], axis=-1).reshape(-1, 2) + 0.5) * step


def _h5ad(path: Path, rng: np.random.Generator, *, step_px: float) -> None:
    import anndata

    path.parent.mkdir(parents=True, exist_ok=True)
    n = SIDE * SIDE
    anndata.AnnData(
        X=_counts(n, rng),
        obs=pd.DataFrame(index=[f"spot{k}" for k in range(n)]),
        var=pd.DataFrame(index=list(GENES)),
        obsm={"spatial": _square(step_px)},
    ).write_h5ad(path)


def _hest(folder: Path, rng: np.random.Generator) -> None:
    _h5ad(folder / "st" / "T1.h5ad", rng, step_px=100.0)
    facts = {
        "st_technology": "Spatial Transcriptomics",
        "patient": "p",
        "pixel_size_um_estimated": 2.0,
        "spot_diameter": 100.0,
        "inter_spot_dist": 200.0,
    }
    for part in ("metadata", "wsis"):
        (folder / part).mkdir()
    (folder / "metadata" / "T1.json").write_text(json.dumps(facts))
    picture(folder / "wsis" / "T1.tif", 640, rng)


def _visium(folder: Path, rng: np.random.Generator) -> None:
    (folder / "spatial").mkdir(parents=True)
    row, k = np.divmod(np.arange(SIDE * SIDE), SIDE)
    column, n = 2 * k + row % 2, len(row)
    barcodes = [f"BC{number:03d}-1" for number in range(n)]
    table = pd.DataFrame({"barcode": barcodes, "in_tissue": 1})
    table["array_row"], table["array_col"] = row, column
    table["pxl_row_in_fullres"] = 50 + row * 100 * np.sqrt(3) / 2
    table["pxl_col_in_fullres"] = 50 + column * 50.0
    table.to_csv(folder / "spatial" / "tissue_positions.csv", index=False)
    (folder / "spatial" / "scalefactors_json.json").write_text("{}")
    by_gene = sparse.csc_array(_counts(n, rng).T.astype(np.int32))
    with h5py.File(folder / "filtered_feature_bc_matrix.h5", "w") as file:
        matrix = file.create_group("matrix")
        matrix["barcodes"] = np.array(barcodes, dtype="S")
        for name in ("data", "indices", "indptr"):
            matrix[name] = getattr(by_gene, name)
        matrix["shape"] = by_gene.shape
        matrix["features/name"] = np.array(GENES, dtype="S")
        matrix["features/feature_type"] = np.array(["Gene Expression"] * len(GENES), dtype="S")
    picture(folder / "full.png", 700, rng)


def _transcripts(folder: Path, rng: np.random.Generator) -> None:
    n, side_um = 2000, 55.0 * SIDE
    places = rng.uniform(0, side_um, (n, 2))
    names = rng.choice(GENES, n)
    for part in ("xenium", "cosmx"):
        (folder / part).mkdir()
        picture(folder / part / "he.png", 720, rng)
    table = pd.DataFrame({"feature_name": names, "qv": 40.0})
    table["x_location"], table["y_location"] = places.T
    table.to_parquet(folder / "xenium" / "transcripts.parquet")
    (folder / "xenium" / "panel.txt").write_text("\n".join([*GENES, "ESR1"]))
    table = pd.DataFrame({"target": names})
    table["x_global_px"], table["y_global_px"] = (places / 0.12).T
    table.to_csv(folder / "cosmx" / "s_tx_file.csv", index=False)
