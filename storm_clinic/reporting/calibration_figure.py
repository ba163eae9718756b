"""Calibration: observed against predicted, with the distribution of predictions underneath."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from markupsafe import Markup
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator, PercentFormatter

from storm_clinic.reporting.notation import months, number
from storm_clinic.reporting.svg import BLUE, MUTED, WIDTH_IN, draw
from storm_clinic.validation.evidence import CalibrationCurve


def calibration(
    curves: Sequence[CalibrationCurve], *, slug: str, title: str, candidate: str
) -> Markup:
    """One panel a horizon, or a class: observed against predicted, histogram of predictions below.

    The candidate is blue; other models (the clinical comparator) are grey, dashed, with hollow
    squares and an outline of their histogram.
    """
    places = sorted({_place(curve) for curve in curves}, key=lambda place: place[0])
    places = places if places[0][0] else list(dict.fromkeys(map(_place, curves)))

    def paint(figure: Figure) -> None:
        grid = figure.subplots(2, len(places), sharex="col", squeeze=False, height_ratios=[4.2, 1])
        for column, (horizon, level) in enumerate(places):
            here = [c for c in curves if _place(c) == (horizon, level)]
            _calibration_panel(grid[0, column], grid[1, column], here, candidate)
            if horizon or level:
                grid[0, column].set_title(level or f"By {months(horizon)}")
        grid[0, 0].set_ylabel("Observed")
        grid[1, 0].set_ylabel("Patients")
        figure.align_ylabels(grid[:, 0])
        figure.tight_layout(pad=0.3, w_pad=1.2, h_pad=0.4)

    n_columns = max(len(places), 1)
    width = WIDTH_IN if n_columns > 2 else 2.9 * n_columns + 0.3
    return draw(
        paint,
        slug=slug,
        title=title,
        description=_calibration_words(curves),
        width_in=width,
        height_in=1.0 + 1.22 * (width / n_columns - 0.4),
    )


def _place(curve: CalibrationCurve) -> tuple[float, str]:
    """What a panel is about: a horizon, a class, or neither."""
    return curve.horizon_months or 0.0, curve.level


def _calibration_panel(
    axes: Axes, below: Axes, curves: Sequence[CalibrationCurve], candidate: str
) -> None:
    top = 0.1
    for curve in curves:
        top = max(top, *curve.bin_edges, *(group.observed for group in curve.groups))
    top = min(1.0, np.ceil(top * 10) / 10)
    axes.plot([0, top], [0, top], color=MUTED, linewidth=0.8)
    for curve in sorted(curves, key=lambda c: c.model == candidate):
        is_candidate = curve.model == candidate
        _calibration_curve(axes, curve, is_candidate=is_candidate)
        _distribution(below, curve, is_candidate=is_candidate)
    axes.set(xlim=(0, top), ylim=(0, top), aspect="equal")
    if len(curves) > 1:
        axes.legend(loc="upper left", handlelength=1.6, borderpad=0.1)
    for side in (axes, below):
        side.xaxis.set_major_locator(MaxNLocator(5, steps=[1, 2, 2.5, 5, 10]))
        side.xaxis.set_major_formatter(PercentFormatter(1.0, decimals=0))
    axes.yaxis.set_major_formatter(PercentFormatter(1.0, decimals=0))
    axes.yaxis.set_major_locator(MaxNLocator(5, steps=[1, 2, 2.5, 5, 10]))
    below.yaxis.set_major_locator(MaxNLocator(2, integer=True))
    below.set_xlabel("Predicted risk")


def _distribution(axes: Axes, curve: CalibrationCurve, *, is_candidate: bool) -> None:
    """Filled for the candidate, an outline for the other, so that both can be seen."""
    edges, counts = np.asarray(curve.bin_edges), np.asarray(curve.bin_counts)
    if not len(counts):
        return
    if is_candidate:
        axes.bar(edges[:-1], counts, np.diff(edges), align="edge", color=BLUE, alpha=0.55)
    else:
        axes.stairs(counts, edges, color=MUTED, linewidth=0.9, zorder=3)


def _calibration_curve(axes: Axes, curve: CalibrationCurve, *, is_candidate: bool) -> None:
    x, y = np.asarray(curve.predicted), np.asarray(curve.observed)
    group_x, group_y = (
        [getattr(g, name) for g in curve.groups] for name in ("predicted", "observed")
    )
    label = None if len(x) else curve.model
    if not is_candidate:
        # Age and stage alone give clusters of predictions, between which the curve is free to
        # swing: the groups beside it say where there are patients.
        axes.plot(x, y, color=MUTED, linewidth=1.1, linestyle=(0, (5, 1.5)), label=curve.model)
        axes.plot(group_x, group_y, "s", color=MUTED, markerfacecolor="none", markersize=3.2)
        return
    if len(x):
        axes.fill_between(x, curve.lower, curve.upper, color=BLUE, alpha=0.16, linewidth=0)
        axes.plot(x, y, color=BLUE, linewidth=1.2, label=curve.model)
    if curve.groups:
        lower, upper = ([getattr(g, name) for g in curve.groups] for name in ("lower", "upper"))
        axes.vlines(group_x, lower, upper, color=BLUE, linewidth=1.0)
    axes.plot(group_x, group_y, "o", color=BLUE, markersize=3.5, label=label)


def _calibration_words(curves: Sequence[CalibrationCurve]) -> str:
    parts = []
    for curve in curves:
        at = "" if curve.horizon_months is None else f" by {months(curve.horizon_months)}"
        at += f", {curve.level}" if curve.level else ""
        points = [f"{number(g.predicted)} {number(g.observed)}" for g in curve.groups]
        parts.append(f"{curve.model}{at}, predicted and observed: {', '.join(points)}")
    return "; ".join(parts)
