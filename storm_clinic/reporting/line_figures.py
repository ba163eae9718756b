"""Lines with bands: effects over time, shapes of effects, learning curves."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from markupsafe import Markup
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from storm_clinic.reporting.notation import count, number, readable
from storm_clinic.reporting.numbers import p_spoken
from storm_clinic.reporting.svg import BLUE, INK, MUTED, RULE, VERMILLION, WIDTH_IN, draw
from storm_clinic.validation.analyses import InternalValidity, Shape, TimeEffect

_COLUMNS = 3


@dataclass(frozen=True)
class _Panel:
    """One small plot: how it is painted, its title, and its words."""

    title: str
    words: str
    paint: Callable[[Axes], None]


def time_effects(effects: Sequence[TimeEffect], *, slug: str, title: str) -> Markup:
    """Log hazard ratio of each term over months, its band, and the constant of the model."""
    panels = [
        _Panel(
            readable(effect.term),
            f"{readable(effect.term)}: log hazard ratio {_from_to(effect.log_hazard_ratio)} from "
            f"{number(effect.months[0], 0)} to {number(effect.months[-1], 0)} months, constant "
            f"{number(effect.constant)}, {p_spoken(effect.test)}",
            lambda axes, effect=effect: _effect(axes, effect),  # type: ignore[misc]
        )
        for effect in effects
    ]
    return _grid(panels, slug=slug, title=title, down="Log hazard ratio")


def _effect(axes: Axes, effect: TimeEffect) -> None:
    axes.axhline(0, color=MUTED, linewidth=0.8)
    axes.axhline(effect.constant, color=VERMILLION, linewidth=1.1, linestyle=(0, (5, 1.5)))
    _band(axes, effect.months, effect.log_hazard_ratio, effect.lower, effect.upper)
    axes.set_xlabel("Months")


def shapes(found: Sequence[Shape], *, slug: str, title: str) -> Markup:
    """Log hazard against the median over each variable, its band, and where the knots are."""
    panels = [
        _Panel(
            readable(shape.variable),
            f"{readable(shape.variable)}: log hazard ratio {_from_to(shape.log_hazard_ratio)} from "
            f"{number(shape.at[0], 1)} to {number(shape.at[-1], 1)}; not a line: "
            f"{p_spoken(shape.nonlinear)}",
            lambda axes, shape=shape: _shape(axes, shape),  # type: ignore[misc]
        )
        for shape in found
    ]
    return _grid(panels, slug=slug, title=title, down="Log hazard ratio")


def _shape(axes: Axes, shape: Shape) -> None:
    axes.axhline(0, color=MUTED, linewidth=0.8)
    _band(axes, shape.at, shape.log_hazard_ratio, shape.lower, shape.upper)
    knots = axes.get_xaxis_transform()
    axes.plot(
        shape.knots, [0.02] * len(shape.knots), "^", color=INK, markersize=3.5, transform=knots
    )
    name = readable(shape.variable)
    says_unit = not shape.unit or name.endswith(shape.unit)
    axes.set_xlabel(name if says_unit else f"{name}, {shape.unit}")


def learning_curve(found: InternalValidity, *, slug: str, title: str, label: str) -> Markup:
    """A measure of models trained on part of the patients, with events beneath."""
    points = [point for point in found.learning if point.value is not None]

    def paint(axes: Axes) -> None:
        x = [point.n_patients for point in points]
        axes.plot(x, [point.value or 0.0 for point in points], "o-", color=BLUE, markersize=4)
        for point in points:
            if point.lower is not None and point.upper is not None:
                axes.vlines(point.n_patients, point.lower, point.upper, color=BLUE, linewidth=1.2)
        axes.set_xticks(x, [f"{count(p.n_patients)}\n{count(p.n_events)}" for p in points])
        axes.set_xlabel("Patients (events beneath) of training")
        axes.margins(x=0.08)

    words = "; ".join(f"{p.n_patients} patients {number(p.value)}" for p in points)
    panel = _Panel("", words, paint)
    return _grid([panel], slug=slug, title=title, down=label, width_in=5.0, height_in=2.9)


def _band(
    axes: Axes,
    x: Sequence[float],
    y: Sequence[float],
    lower: Sequence[float],
    upper: Sequence[float],
) -> None:
    axes.fill_between(x, lower, upper, color=BLUE, alpha=0.16, linewidth=0)
    axes.plot(x, y, color=BLUE)


def _from_to(values: Sequence[float]) -> str:
    return f"{number(values[0])} to {number(values[-1])}"


def _grid(
    panels: Sequence[_Panel],
    *,
    slug: str,
    title: str,
    down: str,
    width_in: float | None = None,
    height_in: float = 2.3,
) -> Markup:
    n_columns = min(_COLUMNS, len(panels))
    n_rows = -(-len(panels) // n_columns)

    def paint(figure: Figure) -> None:
        grid = figure.subplots(n_rows, n_columns, squeeze=False)
        for axes in grid.flat[len(panels) :]:
            axes.set_visible(False)
        for axes, panel in zip(grid.flat, panels, strict=False):
            panel.paint(axes)
            axes.set_title(panel.title)
            axes.yaxis.set_major_locator(MaxNLocator(5, steps=[1, 2, 2.5, 5, 10]))
            axes.grid(axis="y", color=RULE, linewidth=0.4)
        for axes in grid[:, 0]:
            axes.set_ylabel(down)
        figure.tight_layout(pad=0.3, w_pad=1.4, h_pad=1.2)

    natural = {1: 4.2, 2: 6.0}.get(n_columns, WIDTH_IN)
    return draw(
        paint,
        slug=slug,
        title=title,
        description="; ".join(panel.words for panel in panels),
        width_in=natural if width_in is None else width_in,
        height_in=height_in * n_rows,
    )
