"""Pictures that a pretraining of STORM leaves in MLflow. No name of a section stands in them."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
from matplotlib.figure import Figure

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


def _save(figure: Figure, path: Path) -> None:
    with atomic_write(path) as part:
        figure.savefig(part, format="png", dpi=_DPI)
