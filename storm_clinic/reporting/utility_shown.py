"""Decision curves in figures, numbers and words."""

from __future__ import annotations

from storm_clinic.reporting.blocks import Block, Picture, Words, absent, cautions, made
from storm_clinic.reporting.decision_figure import decision_curves
from storm_clinic.reporting.notation import listed, months, number
from storm_clinic.reporting.numbers import ends
from storm_clinic.reporting.parts import CohortPart
from storm_clinic.reporting.tables import Cell, Row, Table
from storm_clinic.validation.analyses import DecisionCurve

_N_THRESHOLDS = 6


def utility_shown(part: CohortPart) -> list[Block]:
    """What is shown of net benefit, the curves, and numbers at a few thresholds."""
    found: tuple[DecisionCurve, ...] = part.analyses("decision")
    drawn = [c for c in found if c.thresholds and c.model in part.shown]
    empty = [
        absent(f"The decision curve of {c.model}{_at(c)}", c.note)
        for c in found
        if not c.thresholds
    ]
    chosen = [c for c in drawn if c.model == part.content.candidate]
    blocks: list[Block] = [Words(utility_sentence(curve)) for curve in chosen]
    if drawn:
        others = {c.over for c in chosen if c.over} | {c.model for c in drawn}
        grey = listed(sorted(others - {part.content.candidate}))
        figure = decision_curves(
            drawn,
            slug=f"{part.slug}-plot",
            title=f"Net benefit on {part.cohort}",
            candidate=part.content.candidate,
        )
        caption = (
            f"Net benefit by the threshold of risk at which one would act. Blue: "
            f"{part.content.candidate} with pointwise 95% interval"
            f"{f'; grey, dashed: {grey}' if grey else ''}; dotted: treat all; black: treat none, "
            "whose net benefit is 0."
        )
        blocks += [Picture(figure, caption), _table(drawn, part)]
    blocks += [*empty, *cautions(*(c.note for c in drawn)), *made(*(c.method for c in drawn))]
    return blocks


def utility_sentence(curve: DecisionCurve) -> str:
    """Where a gain in net benefit is shown; where none is, it says so."""
    who = f"Of ‘{curve.model}’{_at(curve)}"
    if curve.over is None or not curve.gain:
        above = _ranges(curve.thresholds, [low > 0 for low in curve.lower])
        if above:
            return f"{who} a net benefit above treating nobody is shown at thresholds of {above}."
        return f"{who} no net benefit above treating nobody is shown at any threshold."
    gains = _ranges(curve.thresholds, [low > 0 for low in curve.gain_lower])
    losses = _ranges(curve.thresholds, [high < 0 for high in curve.gain_upper])
    said = []
    if gains:
        said.append(f"a gain in net benefit over {curve.over} is shown at thresholds of {gains}")
    if losses:
        said.append(f"a loss against {curve.over} is shown at thresholds of {losses}")
    if not said:
        n = len(curve.thresholds)
        return f"{who} no gain in net benefit over {curve.over} is shown at any of {n} thresholds."
    return f"{who} {' and '.join(said)}, and at no other (threshold by threshold)."


def _at(curve: DecisionCurve) -> str:
    return "" if curve.horizon_months is None else f" by {months(curve.horizon_months)}"


def _ranges(thresholds: tuple[float, ...], holds: list[bool]) -> str:
    """Runs of thresholds at which something holds: ``10 to 25% and 40%``."""
    runs: list[list[float]] = []
    before = False
    for threshold, here in zip(thresholds, holds, strict=True):
        if here and before:
            runs[-1].append(threshold)
        elif here:
            runs.append([threshold])
        before = here
    texts = [
        f"{100 * run[0]:.3g}%" if len(run) == 1 else f"{100 * run[0]:.3g} to {100 * run[-1]:.3g}%"
        for run in runs
    ]
    return listed(texts)


def _table(curves: list[DecisionCurve], part: CohortPart) -> Table:
    rows = []
    for curve in curves:
        rows.append(Row((Cell(f"{curve.model}{_at(curve)}", strong=True),), heading=True))
        last = len(curve.thresholds) - 1
        picked = sorted({round(at * last / (_N_THRESHOLDS - 1)) for at in range(_N_THRESHOLDS)})
        rows += [_row(curve, at) for at in picked]
    header = (
        Cell("Threshold"),
        Cell("Net benefit", numeric=True),
        Cell("Treat all", numeric=True),
        Cell("Gain", "over the clinical model", numeric=True),
    )
    records = tuple(record for curve in curves for record in decision_records(curve))
    caption = f"Net benefit on {part.cohort} at a few thresholds: value over pointwise 95% interval"
    return Table(part.slug, caption, header, tuple(rows), records, style="inline")


def _row(curve: DecisionCurve, at: int) -> Row:
    interval = ends(curve.lower[at], curve.upper[at], 3)
    gain = Cell("", numeric=True)
    if curve.gain:
        between = ends(curve.gain_lower[at], curve.gain_upper[at], 3, signed=True)
        gain = Cell(number(curve.gain[at], 3, signed=True), between, numeric=True)
    return Row(
        (
            Cell(f"{100 * curve.thresholds[at]:.3g}%"),
            Cell(number(curve.net_benefit[at], 3), interval, numeric=True),
            Cell(number(curve.treat_all[at], 3), numeric=True),
            gain,
        )
    )


def decision_records(curve: DecisionCurve) -> list[dict[str, str | int | float | None]]:
    """Every threshold of a curve as a record."""
    names = ("thresholds", "net_benefit", "lower", "upper", "treat_all")
    names += ("gain", "gain_lower", "gain_upper") if curve.gain else ()
    lines = zip(*(getattr(curve, name) for name in names), strict=True)
    base = {
        "cohort": curve.cohort,
        "model": curve.model,
        "horizon_months": curve.horizon_months,
        "over": curve.over,
        "measure": "net_benefit",
        **({"gain_measure": "net_benefit_gain"} if curve.gain else {}),
    }
    return [{**base, **dict(zip(("threshold", *names[1:]), line, strict=True))} for line in lines]
