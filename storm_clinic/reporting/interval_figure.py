"""Forest plot of any numbers with intervals: hazard ratios, subgroups, sites."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal

from markupsafe import Markup
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.ticker import FixedLocator, FuncFormatter, MaxNLocator, NullLocator

from storm_clinic.reporting.notation import count, number
from storm_clinic.reporting.numbers import ends
from storm_clinic.reporting.svg import BLUE, INK, MUTED, PALE, RULE, VERMILLION, WIDTH_IN, draw

_ROW_IN = 0.22
_RATIOS = (0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1, 2, 5, 10, 20, 50, 100)
_POWERS = tuple(10.0**k for k in range(-8, 9, 2))
_MORE_RATIOS = (0.1, 0.2, 0.3, 0.5, 0.7, 1, 1.5, 2, 3, 5, 7, 10)


@dataclass(frozen=True)
class IntervalRow:
    """One line of the plot; a heading has words and no number."""

    label: str
    value: float | None = None
    lower: float | None = None
    upper: float | None = None
    n_patients: int | None = None
    n_events: int | None = None
    kind: Literal["row", "heading", "pooled", "prediction", "second"] = "row"
    words: str = ""  # in place of a number, or beside a heading


@dataclass(frozen=True)
class _Columns:
    """Where the columns lie, in inches from the left."""

    plot: float
    plot_end: float
    patients: float | None
    estimate: float


def interval_forest(
    rows: Sequence[IntervalRow],
    *,
    slug: str,
    title: str,
    axis: str,
    neutral: float | None,
    digits: int,
    signed: bool = False,
    log: bool = False,
    legend: tuple[str, str] | None = None,
) -> Markup:
    """Numbers with intervals from top to bottom, patients and events and the number beside each.

    Parameters
    ----------
    rows : sequence of IntervalRow
        From top to bottom.
    slug : str
        Unique on the page.
    title : str
        Read out in place of the picture.
    axis : str
        What the numbers are.
    neutral : float or None
        Where nothing is shown.
    digits : int
        Decimals printed.
    signed : bool
        Whether numbers carry their sign.
    log : bool
        Whether the axis is logarithmic, for ratios.
    legend : (str, str), optional
        Names of filled circles and hollow squares, where both are used.
    """
    height = 0.75 + _ROW_IN * len(rows) + (0.2 if legend else 0)
    columns = _columns(rows)

    def paint(figure: Figure) -> None:
        top = (0.45 if legend else 0.25) / height
        box = (
            columns.plot / WIDTH_IN,
            0.42 / height,
            (columns.plot_end - columns.plot) / WIDTH_IN,
            1 - top - 0.42 / height,
        )
        axes = figure.add_axes(box)
        if log:
            axes.set_xscale("log")
        if neutral is not None:
            axes.axvline(neutral, color=MUTED, linewidth=0.8)
        for at, row in enumerate(rows):
            _line(axes, at, row)
            _words(axes, at, row, columns, digits=digits, signed=signed)
        _heads(axes, columns)
        _dress(axes, len(rows), axis, log=log)
        if legend:
            _legend(figure, legend)

    return draw(
        paint,
        slug=slug,
        title=title,
        description="; ".join(_spoken(row, digits, signed) for row in rows),
        width_in=WIDTH_IN,
        height_in=height,
    )


def _columns(rows: Sequence[IntervalRow]) -> _Columns:
    longest = max((len(row.label) for row in rows), default=0)
    labels = min(2.5, 0.35 + 0.062 * longest)
    counted = any(row.n_patients is not None for row in rows)
    estimate = WIDTH_IN - 1.62
    patients = estimate - 0.95 if counted else None
    end = (patients if patients is not None else estimate) - (0.3 if counted else 0.15)
    return _Columns(labels, end, patients, estimate)


def _line(axes: Axes, at: int, row: IntervalRow) -> None:
    if row.kind == "heading":
        axes.axhspan(at - 0.5, at + 0.5, color=PALE, linewidth=0, zorder=0)
    if row.lower is not None and row.upper is not None:
        colour = {"pooled": INK, "prediction": VERMILLION, "second": MUTED}.get(row.kind, BLUE)
        width = 2.6 if row.kind == "prediction" else 1.5
        axes.hlines(at, row.lower, row.upper, color=colour, linewidth=width)
    if row.value is None:
        return
    marker, colour = {"pooled": ("D", INK), "second": ("s", MUTED)}.get(row.kind, ("o", BLUE))
    face = "white" if row.kind == "second" else colour
    axes.plot(row.value, at, marker, color=colour, markerfacecolor=face, markersize=4.8)


def _words(
    axes: Axes, at: int, row: IntervalRow, columns: _Columns, *, digits: int, signed: bool
) -> None:
    def put(inch: float, text: str, **style: Any) -> None:
        share = (inch - columns.plot) / (columns.plot_end - columns.plot)
        place = axes.get_yaxis_transform()
        axes.text(share, at, text, transform=place, va="center", fontsize=7.5, **style)

    bold = row.kind in ("heading", "pooled")
    indent = 0.1 if row.kind == "row" or row.kind == "second" else 0.0
    put(indent, row.label, fontweight="bold" if bold else "normal")
    if columns.patients is not None and row.n_patients is not None:
        put(columns.patients + 0.25, count(row.n_patients), ha="right")
        put(columns.patients + 0.78, count(row.n_events or 0), ha="right")
    if row.words:
        put(columns.estimate, row.words, color=MUTED, style="italic")
    elif row.value is not None:
        interval = ends(row.lower, row.upper, digits, signed=signed)
        put(columns.estimate, f"{number(row.value, digits, signed=signed)} ({interval})")
    elif row.lower is not None:
        put(columns.estimate, ends(row.lower, row.upper, digits, signed=signed))


def _heads(axes: Axes, columns: _Columns) -> None:
    width = columns.plot_end - columns.plot
    heads = [(columns.estimate, "Estimate (95% interval)", "left")]
    if columns.patients is not None:
        heads += [(columns.patients + 0.25, "Patients", "right")]
        heads += [(columns.patients + 0.78, "Events", "right")]
    for inch, text, side in heads:
        axes.annotate(
            text,
            ((inch - columns.plot) / width, 1.0),
            xycoords="axes fraction",
            xytext=(0, 3),
            textcoords="offset points",
            ha=side,
            fontsize=7.5,
            color=MUTED,
        )


def _dress(axes: Axes, n_rows: int, label: str, *, log: bool) -> None:
    axes.set_ylim(n_rows - 0.4, -0.6)
    axes.set_yticks([])
    axes.spines["left"].set_visible(False)
    axes.set_xlabel(label)
    axes.margins(x=0.06)
    axes.grid(axis="x", color=RULE, linewidth=0.4)
    axes.set_axisbelow(True)
    if not log:
        axes.xaxis.set_major_locator(MaxNLocator(5, steps=[1, 2, 5, 10]))
        return
    low, high = axes.get_xlim()
    ratios = _MORE_RATIOS if high / low < 30 else _RATIOS if high / low < 1000 else _POWERS
    shown = [x for x in ratios if low <= x <= high]
    axes.xaxis.set_major_locator(FixedLocator(shown or [low, high]))
    axes.xaxis.set_minor_locator(NullLocator())
    axes.xaxis.set_major_formatter(FuncFormatter(lambda x, _: f"{x:g}"))


def _legend(figure: Figure, names: tuple[str, str]) -> None:
    marks = [
        Line2D([], [], marker="o", color=BLUE, linewidth=1.5, markersize=4.8),
        Line2D([], [], marker="s", color=MUTED, linewidth=1.5, markersize=4.8, markerfacecolor="w"),
    ]
    figure.legend(marks, names, loc="upper left", ncols=2, borderpad=0, handlelength=1.8)


def _spoken(row: IntervalRow, digits: int, signed: bool) -> str:
    if row.value is None and row.lower is None:
        return f"{row.label}: {row.words}" if row.words else row.label
    text = f"{row.label}: {number(row.value, digits, signed=signed)}"
    return f"{text} ({ends(row.lower, row.upper, digits, signed=signed)})"
