"""Curves of risk groups with intervals, ends of follow-up and patients at risk."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from markupsafe import Markup
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import PercentFormatter

from storm_clinic.reporting.notation import count, number, p_value
from storm_clinic.reporting.svg import (
    BLUE,
    DARKER,
    GREEN,
    INK,
    MUTED,
    ORANGE,
    PURPLE,
    RULE,
    VERMILLION,
    draw,
)
from storm_clinic.validation.evidence import RiskGroupCurves

_DASHES = ("-", (0, (5, 1.5)), (0, (2, 1.2)), (0, (5, 1.5, 1, 1.5)), (0, (1, 1)), "-")


def group_colours(n_groups: int) -> list[str]:
    """Colours of risk groups from low to high."""
    return {1: [BLUE], 2: [BLUE, VERMILLION], 3: [BLUE, ORANGE, VERMILLION]}.get(
        n_groups, [BLUE, GREEN, ORANGE, VERMILLION, PURPLE, INK][:n_groups]
    )


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
