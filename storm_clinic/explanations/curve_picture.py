"""Deletion curves as a picture: one panel a map, means over patients."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np

from storm_clinic.explanations.faithfulness import DeletionCurve
from storm_clinic.files import atomic_write

_GRID = np.linspace(0.0, 0.9, 19)  # bags end at different shares; all reach this far with 10 tiles
_ABREAST = 3  # panels in a row
_LINES = (
    ("highest", "highest first", "#0072B2", "-"),
    ("random", "random order", "#666666", "--"),
    ("lowest", "lowest first", "#D55E00", "-."),
)


def draw_curves(path: Path, curves: Mapping[str, Sequence[DeletionCurve]]) -> None:
    """Write a PNG: how the risk moves as tiles go, for each map that has curves."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    n_columns = min(len(curves), _ABREAST)
    n_rows = -(-len(curves) // n_columns)
    figure = Figure(figsize=(4.2 * n_columns, 3.4 * n_rows), dpi=130, layout="constrained")
    FigureCanvasAgg(figure)
    cells = figure.subplots(n_rows, n_columns, squeeze=False).ravel()
    panels = cells[: len(curves)]
    for unused in cells[len(curves) :]:
        unused.set_axis_off()
    for axes, (name, found) in zip(panels, curves.items(), strict=True):
        for field, label, colour, style in _LINES:
            rows = [np.interp(_GRID, curve.share, getattr(curve, field)) for curve in found]
            axes.plot(_GRID * 100, np.mean(rows, axis=0), style, color=colour, label=label)
        axes.axhline(0, color="#bbbbbb", linewidth=0.8)
        axes.set(title=f"{name}, {len(found)} patients", xlabel="tiles taken away (%)")
    for axes in panels[::n_columns]:
        axes.set_ylabel("change of the risk")
    panels[-1].legend(frameon=False, fontsize=8)
    with atomic_write(path) as part:
        figure.savefig(part, format="png", metadata={"Software": "storm_clinic"})
