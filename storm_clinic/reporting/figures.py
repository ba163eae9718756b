"""Figures of the report as inline SVG: forest, calibration, risk groups, curves of classes."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from markupsafe import Markup
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator, PercentFormatter

from storm_clinic.reporting.notation import (
    count,
    interval_of,
    months,
    number,
    p_value,
    value_of,
)
from storm_clinic.reporting.svg import (
    BLUE,
    DARKER,
    GREEN,
    INK,
    MUTED,
    ORANGE,
    PALE,
    PURPLE,
    RULE,
    VERMILLION,
    draw,
)
from storm_clinic.validation.evidence import (
    CalibrationCurve,
    ClassCurves,
    Estimate,
    RiskGroupCurves,
)

_WIDTH_IN = 7.3


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
        width_in=_WIDTH_IN,
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


def calibration(
    curves: Sequence[CalibrationCurve], *, slug: str, title: str, candidate: str
) -> Markup:
    """One panel a horizon, or a class: observed against predicted, histogram of predictions below.

    The candidate is blue, with its smooth curve; other models (the clinical comparator) are
    hollow squares.
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
    width = _WIDTH_IN if n_columns > 2 else 2.9 * n_columns + 0.3
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
        _calibration_curve(axes, curve, is_candidate=curve.model == candidate)
        if curve.model == candidate:
            edges, counts = np.asarray(curve.bin_edges), np.asarray(curve.bin_counts)
            below.bar(edges[:-1], counts, np.diff(edges), align="edge", color=BLUE, alpha=0.55)
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


def _calibration_curve(axes: Axes, curve: CalibrationCurve, *, is_candidate: bool) -> None:
    x, y = np.asarray(curve.predicted), np.asarray(curve.observed)
    group_x, group_y = (
        [getattr(g, name) for g in curve.groups] for name in ("predicted", "observed")
    )
    if not is_candidate:
        # Points only: age and stage give clusters of predictions, between which loess swings.
        line = axes.plot(group_x, group_y, "s", color=MUTED, label=curve.model)[0]
        line.set(markerfacecolor="none", markersize=3.5)
        return
    if len(x):
        axes.fill_between(x, curve.lower, curve.upper, color=BLUE, alpha=0.16, linewidth=0)
        axes.plot(x, y, color=BLUE, linewidth=1.2, label=curve.model)
    ends = [(group.lower, group.upper) for group in curve.groups]
    axes.vlines(group_x, *zip(*ends, strict=True), color=BLUE, linewidth=1.0)
    label = None if len(x) else curve.model
    axes.plot(group_x, group_y, "o", color=BLUE, markersize=3.5, label=label)


def _calibration_words(curves: Sequence[CalibrationCurve]) -> str:
    parts = []
    for curve in curves:
        at = "" if curve.horizon_months is None else f" by {months(curve.horizon_months)}"
        at += f", {curve.level}" if curve.level else ""
        points = [f"{number(g.predicted)} {number(g.observed)}" for g in curve.groups]
        parts.append(f"{curve.model}{at}, predicted and observed: {', '.join(points)}")
    return "; ".join(parts)


def group_colours(n_groups: int) -> list[str]:
    """Colours of risk groups from low to high."""
    return {1: [BLUE], 2: [BLUE, VERMILLION], 3: [BLUE, ORANGE, VERMILLION]}.get(
        n_groups, [BLUE, GREEN, ORANGE, VERMILLION, PURPLE, INK][:n_groups]
    )


def _class_colours(n_classes: int) -> list[str]:
    """A colour a class; beyond those that all can tell apart they come again."""
    palette = [BLUE, VERMILLION, GREEN, ORANGE, PURPLE, INK]
    return [palette[at % len(palette)] for at in range(n_classes)]


_DASHES = ("-", (0, (5, 1.5)), (0, (2, 1.2)), (0, (5, 1.5, 1, 1.5)), (0, (1, 1)), "-")


def risk_groups(curves: RiskGroupCurves, *, slug: str, title: str) -> Markup:
    """Curves with intervals, censoring ticks, and patients at risk underneath.

    Event-free patients or, with competing risks, the cumulative incidence of the cause of interest.
    """
    colours = group_colours(len(curves.groups))
    n_groups = len(curves.groups)

    def paint(figure: Figure) -> None:
        heights = [3.0, 0.3 + 0.19 * n_groups]
        axes, table = figure.subplots(2, 1, sharex=True, height_ratios=heights)
        for group, colour, dash in zip(curves.groups, colours, _DASHES, strict=False):
            t, s = np.asarray(group.months), np.asarray(group.values)
            band = {"step": "post", "color": colour, "alpha": 0.13, "linewidth": 0}
            axes.fill_between(t, group.lower, group.upper, **band)
            axes.step(t, s, where="post", color=colour, linestyle=dash, label=group.label)
            at = s[np.searchsorted(t, group.censored_months, side="right") - 1]
            axes.plot(group.censored_months, at, "|", color=colour, markersize=4.5, alpha=0.8)
        axes.yaxis.set_major_formatter(PercentFormatter(1.0, decimals=0))
        (_dress_incidence if curves.event else _dress_survival)(axes, curves)
        axes.grid(axis="y", color=RULE, linewidth=0.4)
        axes.set_xlabel("Months")
        axes.tick_params(axis="x", labelbottom=True)
        _at_risk_table(table, curves, colours)
        figure.tight_layout(pad=0.3, h_pad=0.6)

    return draw(
        paint,
        slug=slug,
        title=title,
        description=_group_words(curves),
        width_in=6.8,
        height_in=3.7 + 0.2 * n_groups,
    )


def _dress_survival(axes: Axes, curves: RiskGroupCurves) -> None:
    axes.set_ylim(0, 1.02)
    axes.set_ylabel("Event-free")
    axes.legend(loc="lower left", title="Risk group", alignment="left", reverse=True)
    if curves.log_rank_p is not None:
        words = f"log-rank {p_value(curves.log_rank_p)}"
        axes.text(0.99, 0.97, words, transform=axes.transAxes, ha="right", va="top")


def _dress_incidence(axes: Axes, curves: RiskGroupCurves) -> None:
    until = max(curves.ticks_months, default=0.0)
    reached = [
        upper
        for group in curves.groups
        for month, upper in zip(group.months, group.upper, strict=True)
        if month <= until
    ]
    # Room above for the legend; no more than everybody.
    axes.set_ylim(0, min(1.02, max(0.1, 1.25 * max(reached, default=1.0))))
    axes.set_ylabel(f"Cumulative incidence of {curves.event}")
    axes.legend(loc="upper left", title="Risk group", alignment="left", reverse=True)
    if curves.log_rank_p is not None:
        words = f"cause-specific log-rank {p_value(curves.log_rank_p)}"
        axes.text(0.99, 0.97, words, transform=axes.transAxes, ha="right", va="top")


def _at_risk_table(axes: Axes, curves: RiskGroupCurves, colours: Sequence[str]) -> None:
    axes.set_ylim(-0.6, len(curves.groups) - 0.3)
    for height, group in enumerate(curves.groups):
        for month, n in zip(curves.ticks_months, group.at_risk, strict=True):
            axes.text(month, height, count(n), ha="center", va="center", fontsize=7.5)
    # The order of the table is the order of the curves on the plot: highest risk lowest, where
    # fewer are left event-free, and highest where more had the event.
    if not curves.event:
        axes.invert_yaxis()
    axes.set_yticks(range(len(curves.groups)), [group.label for group in curves.groups])
    for tick, colour in zip(axes.get_yticklabels(), colours, strict=True):
        tick.set_color(DARKER.get(colour, colour))
        tick.set_fontweight("bold")
    last = max(curves.ticks_months, default=1.0)
    axes.set_xlim(-0.03 * last, 1.03 * last)
    axes.set_xticks(curves.ticks_months)
    axes.tick_params(axis="both", length=0, labelbottom=False)
    axes.spines[["left", "bottom"]].set_visible(False)
    axes.set_title("Patients at risk", fontsize=7.5, color=MUTED, pad=1, fontweight="normal")


def _group_words(curves: RiskGroupCurves) -> str:
    what = f"incidence of {curves.event}" if curves.event else "event-free"
    parts = [
        f"{g.label}: {g.n_patients} patients, {g.n_events} events, "
        f"{what} {number(g.values[-1])} at the end"
        for g in curves.groups
    ]
    test = "cause-specific log-rank" if curves.event else "log-rank"
    return "; ".join([*parts, f"{test} {p_value(curves.log_rank_p)}"])


def class_curves(curves: Sequence[ClassCurves], *, slug: str, title: str, candidate: str) -> Markup:
    """Receiver operating characteristic beside precision-recall, candidate in blue.

    Of several classes, each against the rest: the candidate alone, a colour a class.
    """
    events = list(dict.fromkeys(curve.event for curve in curves))
    colours = dict(zip(events, _class_colours(len(events)), strict=True))
    if len(events) > 1:
        curves = [curve for curve in curves if curve.model == candidate] or curves

    def paint(figure: Figure) -> None:
        left, right = figure.subplots(1, 2)
        left.plot([0, 1], [0, 1], color=MUTED, linewidth=0.8)
        for curve in sorted(curves, key=lambda c: c.model == candidate):
            chosen = curve.model == candidate
            style = {"color": BLUE} if chosen else {"color": MUTED, "linestyle": (0, (3, 2))}
            label = curve.model
            if len(events) > 1:
                style, label = {"color": colours[curve.event]}, curve.event
            x, y = curve.false_positive_rate, curve.true_positive_rate
            left.step(x, y, where="post", label=label, **style)
            right.step(curve.recall, curve.precision, where="pre", label=label, **style)
            if len(events) > 1 or curve is curves[0]:
                colour = colours[curve.event] if len(events) > 1 else MUTED
                right.axhline(curve.prevalence, color=colour, linewidth=0.8, alpha=0.8)
        left.set(xlabel="1 − specificity", ylabel="Sensitivity")
        right.set(xlabel="Recall (sensitivity)", ylabel="Precision")
        left.legend(loc="lower right")
        for axes in (left, right):
            axes.set(xlim=(-0.01, 1.01), ylim=(0, 1.02), aspect="equal")
        figure.tight_layout(pad=0.3, w_pad=2.0)

    words = "; ".join(f"{c.model}, event {c.event}, prevalence {c.prevalence:.2f}" for c in curves)
    return draw(paint, slug=slug, title=title, description=words, width_in=6.4, height_in=3.2)
