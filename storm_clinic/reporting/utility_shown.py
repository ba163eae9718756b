"""Decision curves in figures, numbers and words."""

from __future__ import annotations

from storm_clinic.reporting.blocks import Block, Picture, Words, absent, cautions, made
from storm_clinic.reporting.decision_figure import decision_curves
from storm_clinic.reporting.notation import ABSENT, listed, months, number
from storm_clinic.reporting.numbers import ends
from storm_clinic.reporting.parts import CohortPart
from storm_clinic.reporting.phrases import capital
from storm_clinic.reporting.tables import Cell, Row, Table
from storm_clinic.validation.analyses import DecisionCurve

_N_THRESHOLDS = 6


def utility_shown(part: CohortPart) -> list[Block]:
    """What is shown of net benefit, the curves, and numbers at a few thresholds."""
    found: tuple[DecisionCurve, ...] = part.analyses("decision")
    drawn = [c for c in found if c.thresholds and c.model in part.shown]
    empty = [
        absent(f"{capital(_at([c]))}the decision curve of {c.model}", c.note)
        for c in found
        if not c.thresholds
    ]
    chosen = [c for c in drawn if c.model == part.content.candidate]
    blocks: list[Block] = [Words(text) for text in utility_sentences(chosen)]
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
    return f"{capital(_at([curve]))}{_shown(curve)}"


def utility_sentences(curves: list[DecisionCurve]) -> list[str]:
    """One sentence for all horizons of which the same is shown."""
    said: dict[str, list[DecisionCurve]] = {}
    for curve in curves:
        said.setdefault(_shown(curve), []).append(curve)
    return [f"{capital(_at(here))}{words}" for words, here in said.items()]


def _shown(curve: DecisionCurve) -> str:
    n = len(curve.thresholds)
    if curve.over is None or not curve.gain:
        above = _ranges(curve.thresholds, [low > 0 for low in curve.lower])
        what = f"net benefit of ‘{curve.model}’ above treating nobody is shown at"
        return f"a {what} thresholds of {above}." if above else f"no {what} any of {n} thresholds."
    gains = _ranges(curve.thresholds, [low > 0 for low in curve.gain_lower])
    losses = _ranges(curve.thresholds, [high < 0 for high in curve.gain_upper])
    what = f"in net benefit of ‘{curve.model}’ over {curve.over} is shown at"
    if not gains and not losses:
        return f"no gain {what} any of {n} thresholds."
    said = [f"a gain {what} thresholds of {gains}"] if gains else []
    said += [f"a loss {what} thresholds of {losses}"] if losses else []
    return f"{' and '.join(said)}, each threshold taken alone."


def _at(curves: list[DecisionCurve]) -> str:
    horizons = [f"{c.horizon_months:g}" for c in curves if c.horizon_months is not None]
    return f"by {listed(horizons)} months, " if horizons else ""


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
    models = [m for m in part.shown if any(c.model == m for c in curves)]
    gains = any(curve.gain for curve in curves)
    rows = []
    for horizon in dict.fromkeys(curve.horizon_months for curve in curves):
        here = {c.model: c for c in curves if c.horizon_months == horizon}
        if horizon is not None:
            rows.append(Row((Cell(f"By {months(horizon)}", strong=True),), heading=True))
        first = next(iter(here.values()))
        last = len(first.thresholds) - 1
        picked = sorted({round(at * last / (_N_THRESHOLDS - 1)) for at in range(_N_THRESHOLDS)})
        rows += [_row([here.get(m) for m in models], first, at, gains=gains) for at in picked]
    over = next((curve.over for curve in curves if curve.over), None)
    header = [Cell("Threshold"), *(Cell(m, "net benefit", numeric=True) for m in models)]
    header.append(Cell("Treat all", "net benefit", numeric=True))
    header += [Cell("Gain", f"over {over}", numeric=True)] if gains else []
    records = tuple(record for curve in curves for record in decision_records(curve))
    caption = f"Net benefit on {part.cohort} at a few thresholds: value, pointwise 95% interval"
    return Table(part.slug, caption, tuple(header), tuple(rows), records, style="inline")


def _row(curves: list[DecisionCurve | None], first: DecisionCurve, at: int, *, gains: bool) -> Row:
    threshold = first.thresholds[at]
    cells = [Cell(f"{100 * threshold:.3g}%")]
    gain = Cell("", numeric=True)
    for curve in curves:
        # Curves of one horizon share their thresholds, or the number is left out.
        if curve is None or threshold not in curve.thresholds:
            cells.append(Cell(ABSENT, numeric=True))
            continue
        here = curve.thresholds.index(threshold)
        interval = ends(curve.lower[here], curve.upper[here], 3)
        cells.append(Cell(number(curve.net_benefit[here], 3), interval, numeric=True))
        if curve.gain:
            between = ends(curve.gain_lower[here], curve.gain_upper[here], 3, signed=True)
            gain = Cell(number(curve.gain[here], 3, signed=True), between, numeric=True)
    cells.append(Cell(number(first.treat_all[at], 3), numeric=True))
    return Row((*cells, gain) if gains else tuple(cells))


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
