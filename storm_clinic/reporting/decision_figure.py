"""Decision curves: net benefit over thresholds, against treating all, none, and the clinic."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from markupsafe import Markup
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator, PercentFormatter

from storm_clinic.reporting.notation import months, number
from storm_clinic.reporting.svg import BLUE, INK, MUTED, RULE, VERMILLION, WIDTH_IN, draw
from storm_clinic.validation.analyses import DecisionCurve

_COLUMNS = 3


def decision_curves(
    curves: Sequence[DecisionCurve], *, slug: str, title: str, candidate: str
) -> Markup:
    """One panel a horizon: the candidate with its band, the clinical model, treat all and none."""
    horizons = list(dict.fromkeys(curve.horizon_months for curve in curves))
    n_columns = len(horizons) if len(horizons) <= _COLUMNS else 2
    n_rows = -(-len(horizons) // n_columns)

    def paint(figure: Figure) -> None:
        grid = figure.subplots(n_rows, n_columns, squeeze=False)
        for axes in grid.flat[len(horizons) :]:
            axes.set_visible(False)
        for at, (axes, horizon) in enumerate(zip(grid.flat, horizons, strict=False)):
            here = [curve for curve in curves if curve.horizon_months == horizon]
            _panel(axes, here, candidate, named=at == 0)
            axes.set_title("" if horizon is None else f"By {months(horizon)}")
        for axes in grid[:, 0]:
            axes.set_ylabel("Net benefit")
        figure.tight_layout(pad=0.3, w_pad=1.6, h_pad=1.2)

    return draw(
        paint,
        slug=slug,
        title=title,
        description=_spoken(curves),
        width_in=WIDTH_IN if n_columns > 1 else 5.4,
        height_in=(2.6 if n_columns == _COLUMNS else 3.0) * n_rows,
    )


def _panel(axes: Axes, curves: Sequence[DecisionCurve], candidate: str, *, named: bool) -> None:
    first = curves[0]
    axes.axhline(0, color=INK, linewidth=0.8, label="treat none")
    axes.plot(
        first.thresholds,
        first.treat_all,
        color=VERMILLION,
        linestyle=(0, (1, 1)),
        label="treat all",
    )
    for curve in sorted(curves, key=lambda c: c.model == candidate):
        if curve.model == candidate:
            axes.fill_between(
                curve.thresholds, curve.lower, curve.upper, color=BLUE, alpha=0.16, linewidth=0
            )
            axes.plot(curve.thresholds, curve.net_benefit, color=BLUE, label=curve.model)
        else:
            axes.plot(
                curve.thresholds,
                curve.net_benefit,
                color=MUTED,
                linestyle=(0, (5, 1.5)),
                label=curve.model,
            )
    reached = [x for curve in curves for x in (*curve.net_benefit, *curve.upper)]
    top = max(*reached, *first.treat_all, 0.01)
    # Treating all falls far below 0 at high thresholds, where nothing is to be seen.
    lowest = min([0.0, *(x for curve in curves for x in (*curve.lower, *curve.net_benefit))])
    axes.set_ylim(max(lowest, -0.6 * top) - 0.08 * top, 1.12 * top)
    axes.set_xlim(min(first.thresholds), max(first.thresholds))
    axes.set_xlabel("Threshold of risk")
    axes.xaxis.set_major_locator(MaxNLocator(5, steps=[1, 2, 5, 10]))
    axes.xaxis.set_major_formatter(PercentFormatter(1.0, decimals=0))
    axes.yaxis.set_major_locator(MaxNLocator(5, steps=[1, 2, 5, 10]))
    axes.grid(axis="y", color=RULE, linewidth=0.4)
    if named:
        axes.legend(loc="upper right", handlelength=2.2, borderpad=0.1)


def _spoken(curves: Sequence[DecisionCurve]) -> str:
    said = []
    for curve in curves:
        at = "" if curve.horizon_months is None else f" by {months(curve.horizon_months)}"
        picked = np.unique(np.linspace(0, len(curve.thresholds) - 1, 5).round().astype(int))
        points = [
            f"{number(100 * curve.thresholds[i], 0)}% {number(curve.net_benefit[i], 3)}"
            for i in picked
        ]
        said.append(f"{curve.model}{at}, threshold and net benefit: {', '.join(points)}")
    return "; ".join(said)
