"""Forest plot of models: a measure of each, and its gain over the comparator."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from markupsafe import Markup
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from storm_clinic.reporting.notation import interval_of, value_of
from storm_clinic.reporting.svg import BLUE, INK, MUTED, PALE, RULE, WIDTH_IN, draw
from storm_clinic.validation.evidence import Estimate


@dataclass(frozen=True)
class ForestRow:
    """One line of a forest plot: a model with its measure and its gain over the comparator."""

    label: str
    value: Estimate | None
    gain: Estimate | None
    is_candidate: bool = False
    is_comparator: bool = False


def forest(
    rows: Sequence[ForestRow],
    *,
    slug: str,
    label: str,
    over: str | None,
    neutral: float | None,
    title: str,
) -> Markup:
    """Measure of each model on the left, its gain over the comparator on the right.

    Parameters
    ----------
    rows : sequence of ForestRow
        From top to bottom.
    slug : str
        Unique on the page.
    label : str
        Name of the measure.
    over : str or None
        The comparator; None draws no right panel.
    neutral : float or None
        Where a model that knows nothing would lie.
    title : str
        Read out in place of the picture.
    """

    def paint(figure: Figure) -> None:
        n_panels = 1 if over is None else 2
        panels = figure.subplots(1, n_panels, sharey=True, squeeze=False)[0]
        reference = next((r.value.value for r in rows if r.is_comparator and r.value), None)
        _forest_panel(panels[0], rows, [row.value for row in rows], neutral, reference)
        panels[0].set_title(label)
        if over is not None:
            _forest_panel(panels[1], rows, [row.gain for row in rows], 0.0, None)
            panels[1].set_title(f"Gain over {over}")
            panels[1].tick_params(axis="y", length=0)
        panels[0].set_yticks(range(len(rows)), [row.label for row in rows])
        for tick, row in zip(panels[0].get_yticklabels(), rows, strict=True):
            tick.set_fontweight("bold" if row.is_candidate else "normal")
        panels[0].set_ylim(len(rows) - 0.4, -0.6)
        figure.tight_layout(pad=0.3, w_pad=2.5)

    return draw(
        paint,
        slug=slug,
        title=title,
        description=_forest_words(rows, label, over),
        width_in=WIDTH_IN,
        height_in=0.75 + 0.3 * len(rows),
    )


def _forest_panel(
    axes: Axes,
    rows: Sequence[ForestRow],
    estimates: Sequence[Estimate | None],
    neutral: float | None,
    reference: float | None,
) -> None:
    if neutral is not None:
        axes.axvline(neutral, color=MUTED, linewidth=0.8)
    if reference is not None:
        axes.axvline(reference, color=MUTED, linewidth=0.8, linestyle=(0, (3, 2)))
    for height, (row, estimate) in enumerate(zip(rows, estimates, strict=True)):
        if height % 2 == 0:
            axes.axhspan(height - 0.5, height + 0.5, color=PALE, linewidth=0, zorder=0)
        if estimate is None or estimate.value is None:
            words = "reference" if row.is_comparator else "not estimated"
            where = neutral if neutral is not None else 0.5
            axes.text(where, height, f" {words} ", color=MUTED, va="center", style="italic")
            continue
        colour = BLUE if row.is_candidate else INK if row.is_comparator else MUTED
        if estimate.lower is not None and estimate.upper is not None:
            axes.hlines(height, estimate.lower, estimate.upper, color=colour, linewidth=1.6)
        marker = "s" if row.is_comparator else "o"
        axes.plot(estimate.value, height, marker, color=colour, markersize=5.5)
    axes.xaxis.set_major_locator(MaxNLocator(5, steps=[1, 2, 5, 10]))
    axes.spines["left"].set_visible(False)
    axes.tick_params(axis="y", length=0)
    axes.grid(axis="x", color=RULE, linewidth=0.4)
    axes.set_axisbelow(True)
    axes.margins(x=0.08)


def _forest_words(rows: Sequence[ForestRow], label: str, over: str | None) -> str:
    parts = []
    for row in rows:
        text = row.label
        if row.value is not None:
            text += f": {label} {value_of(row.value)} ({interval_of(row.value)})"
        if row.gain is not None and over is not None:
            text += f", gain over {over} {value_of(row.gain)} ({interval_of(row.gain)})"
        parts.append(text)
    return "; ".join(parts)
