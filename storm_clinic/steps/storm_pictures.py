"""Pictures of what STORM learned and what it imputes."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from matplotlib.figure import Figure
from numpy.typing import NDArray

from storm_clinic.files import atomic_write
from storm_clinic.storm.reconstruction import Reconstruction

_PARTS = {
    "image": "masked images",
    "expression": "masked expression",
    "virtual": "expression from H&E alone",
}
_DPI = 110


def draw_curve(history: Sequence[dict[str, float]], path: Path) -> None:
    """Each part's training loss over updates, as PNG."""
    figure = Figure(figsize=(6, 3.6), layout="constrained")
    axes = figure.subplots()
    for name, words in _PARTS.items():
        points = [(point["step"], point[name]) for point in history if name in point]
        if points:
            axes.plot(*zip(*points, strict=True), label=words)
    axes.set(xlabel="Updates", ylabel="Training loss", ylim=(0, None))
    axes.legend(frameon=False)
    _save(figure, path)


def draw_reconstruction(made: Reconstruction, path: Path) -> None:
    """Maps of measured, filled-in and foretold expression, a row a gene, as PNG."""
    columns = {
        "measured": made.measured,
        "filled in (own spot masked)": made.filled_in,
        "from H&E alone": made.from_image,
    }
    n_genes = len(made.genes)
    figure = Figure(figsize=(3.2 * len(columns), 2.9 * n_genes + 0.5), layout="constrained")
    figure.suptitle("A training section, not held out: log1p of counts per 10,000", fontsize=10)
    grid = figure.subplots(n_genes, len(columns), squeeze=False)
    for row, gene in enumerate(made.genes):
        truth = made.measured[:, row]
        lowest, highest = np.quantile(truth, [0.02, 0.98])
        for axes, (title, values) in zip(grid[row], columns.items(), strict=True):
            shown = axes.scatter(
                *made.xy_um.T, c=values[:, row], s=14, vmin=lowest, vmax=highest, cmap="viridis"
            )
            axes.set(xticks=[], yticks=[], aspect="equal", title=title if row == 0 else "")
            axes.invert_yaxis()
        grid[row][0].set_ylabel(gene)
        figure.colorbar(shown, ax=list(grid[row]), shrink=0.8)
    _save(figure, path)


@dataclass(frozen=True, eq=False)
class GeneMaps:
    """One left-out section, as it is drawn.

    Attributes
    ----------
    title : str
        What was left out, and of what.
    tissue : uint8 array, shape (height, width, 3)
        H&E, coarse.
    tissue_mpp : float
        Its scale.
    xy_um : float64 array, shape (n_spots, 2)
    genes : tuple of str
        With their held-out r in words.
    measured, imputed : float array, shape (n_spots, n_genes)
    """

    title: str
    tissue: NDArray[np.uint8]
    tissue_mpp: float
    xy_um: NDArray[np.float64]
    genes: tuple[str, ...]
    measured: NDArray[np.float32]
    imputed: NDArray[np.float32]


def draw_gene_maps(maps: GeneMaps, path: Path) -> None:
    """H&E, measured and imputed expression side by side, a row a gene, as PNG.

    Each map has its own scale of colours, from the 2nd to the 98th percentile: imputed values span
    less than measured ones, as every mean does.
    """
    n_genes = len(maps.genes)
    low, high = maps.xy_um.min(axis=0) - 300, maps.xy_um.max(axis=0) + 300
    # Rows as high as the section is for its width, so that none is mostly blank.
    row_in = float(np.clip(2.7 * (high - low)[1] / (high - low)[0], 1.0, 5.0)) + 0.15
    figure = Figure(figsize=(9.6, row_in * n_genes + 0.5), layout="constrained")
    figure.suptitle(maps.title, fontsize=10)
    grid = figure.subplots(n_genes, 3, squeeze=False)
    height, width = maps.tissue.shape[:2]
    extent = (0.0, width * maps.tissue_mpp, height * maps.tissue_mpp, 0.0)
    for row, gene in enumerate(maps.genes):
        grid[row][0].imshow(maps.tissue, extent=extent)
        for column, (name, values) in enumerate(
            (("measured", maps.measured), ("imputed from H&E", maps.imputed)), 1
        ):
            shown = values[:, row]
            lowest, highest = np.quantile(shown, [0.02, 0.98])
            drawn = grid[row][column].scatter(
                *maps.xy_um.T, c=shown, s=16, vmin=lowest, vmax=highest, cmap="viridis"
            )
            figure.colorbar(drawn, ax=grid[row][column], shrink=0.8)
            grid[row][column].set_title(name if row == 0 else "")
        grid[row][0].set_title("H&E" if row == 0 else "")
        grid[row][0].set_ylabel(gene)
        for axes in grid[row]:
            axes.set(
                xticks=[],
                yticks=[],
                aspect="equal",
                xlim=(low[0], high[0]),
                ylim=(high[1], low[1]),
            )
    _save(figure, path)


def _save(figure: Figure, path: Path) -> None:
    with atomic_write(path) as part:
        figure.savefig(part, format="png", dpi=_DPI)
