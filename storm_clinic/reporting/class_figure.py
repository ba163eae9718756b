"""Receiver operating characteristic and precision-recall curves of classes."""

from __future__ import annotations

from collections.abc import Sequence

from markupsafe import Markup
from matplotlib.figure import Figure

from storm_clinic.reporting.svg import BLUE, GREEN, INK, MUTED, ORANGE, PURPLE, VERMILLION, draw
from storm_clinic.validation.evidence import ClassCurves


def _class_colours(n_classes: int) -> list[str]:
    """A colour a class; beyond those that all can tell apart they come again."""
    palette = [BLUE, VERMILLION, GREEN, ORANGE, PURPLE, INK]
    return [palette[at % len(palette)] for at in range(n_classes)]


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
