"""Dot plot of standardised differences: how unlike the evaluated patients are."""

from __future__ import annotations

from collections.abc import Sequence

from markupsafe import Markup
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from storm_clinic.reporting.notation import number, readable
from storm_clinic.reporting.svg import BLUE, MUTED, PALE, RULE, draw
from storm_clinic.validation.analyses import CaseMix

# A convention in the literature on balance: beyond it a difference is worth a look.
NOTABLE = 0.1


def differences(mixes: Sequence[CaseMix], *, slug: str, title: str) -> Markup:
    """One dot a variable, the band within which differences are called small."""
    known = [mix for mix in mixes if mix.standardised_difference is not None]

    def paint(figure: Figure) -> None:
        axes = figure.subplots()
        axes.axvspan(-NOTABLE, NOTABLE, color=PALE, linewidth=0, zorder=0)
        axes.axvline(0, color=MUTED, linewidth=0.8)
        for at, mix in enumerate(known):
            # Of categories only the size of the difference is known: no direction.
            marker = "o" if mix.evaluated.kind == "continuous" else "D"
            axes.plot(mix.standardised_difference, at, marker, color=BLUE, markersize=5)
        axes.set_yticks(range(len(known)), [readable(mix.variable) for mix in known])
        axes.set_ylim(len(known) - 0.4, -0.6)
        axes.tick_params(axis="y", length=0)
        axes.spines["left"].set_visible(False)
        axes.xaxis.set_major_locator(MaxNLocator(6, steps=[1, 2, 5, 10]))
        axes.grid(axis="both", color=RULE, linewidth=0.4)
        axes.margins(x=0.08)
        axes.set_xlabel("Standardised difference: evaluated less development")
        figure.tight_layout(pad=0.3)

    words = [f"{readable(mix.variable)} {number(mix.standardised_difference)}" for mix in known]
    return draw(
        paint,
        slug=slug,
        title=title,
        description="; ".join(words),
        width_in=5.8,
        height_in=0.75 + 0.26 * len(known),
    )
