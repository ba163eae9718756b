"""Tables of how the models did: all of them beside the clinical comparator, with intervals."""

from __future__ import annotations

from collections.abc import Sequence

from storm_clinic.reporting.content import ReportContent
from storm_clinic.reporting.notation import (
    count,
    months,
)
from storm_clinic.reporting.tables import (
    Cell,
    Footnotes,
    Row,
    Table,
    Value,
    estimate_cell,
    estimate_records,
)
from storm_clinic.reporting.wording import describe_inputs
from storm_clinic.validation.evidence import (
    CalibrationCurve,
    ClassCurves,
    Estimate,
    Evidence,
    RiskGroupCurves,
)
from storm_clinic.validation.measures import MEASURES, base_of, gain_of, label_of

_MAX_COLUMNS = 6
_RANKING = ("c_index", "c_index_uno", "auc", "auroc", "average_precision")


def performance_tables(
    content: ReportContent, evidence: Evidence, cohort: str, slug: str
) -> list[Table]:
    """One line a model: the measures that have no horizon, and gains over the comparator.

    More columns than a page holds are split: ranking first, then error and calibration.
    """
    found = [e for e in evidence.find(cohort=cohort) if e.horizon_months is None]
    shown = [e for e in found if e.over in (None, content.comparator)]
    metrics = _ordered({e.metric for e in shown})
    ranking = [m for m in metrics if base_of(m) in _RANKING]
    rest = [m for m in metrics if m not in ranking]
    parts = [metrics] if len(metrics) <= _MAX_COLUMNS else [ranking, rest]
    return [
        _performance(content, evidence, cohort, [e for e in shown if e.metric in part], name)
        for part, name in zip(parts, (slug, f"{slug}-2"), strict=False)
        if part
    ]


def _performance(
    content: ReportContent, evidence: Evidence, cohort: str, shown: list[Estimate], slug: str
) -> Table:
    metrics = _ordered({e.metric for e in shown})
    notes = Footnotes()
    header = (Cell("Model"), *(Cell(_label(m, content.comparator), numeric=True) for m in metrics))
    rows = [
        _model_row(content, model, [_pick(shown, m, model) for m in metrics], notes)
        for model in _models(shown)
    ]
    caption = f"Models on {cohort}: value over 95% interval"
    records = estimate_records(shown, evidence.kind)
    return Table(slug, caption, header, tuple(rows), records, notes.all())


def horizon_table(
    content: ReportContent, evidence: Evidence, cohort: str, slug: str
) -> Table | None:
    """Measures that are judged at a horizon: a block a measure, a line a model."""
    found = [
        e
        for e in evidence.find(cohort=cohort)
        if e.horizon_months is not None and e.over in (None, content.comparator)
    ]
    if not found:
        return None
    horizons = sorted({e.horizon_months for e in found if e.horizon_months is not None})
    notes = Footnotes()
    rows: list[Row] = []
    for metric in _ordered({e.metric for e in found}):
        here = [e for e in found if e.metric == metric]
        rows.append(Row((Cell(_label(metric, content.comparator), strong=True),), heading=True))
        for model in _models(here):
            at = [_pick(here, metric, model, horizon) for horizon in horizons]
            rows.append(_model_row(content, model, at, notes, inputs=False))
    header = (Cell("Model"), *(Cell(months(h), numeric=True) for h in horizons))
    caption = f"Models on {cohort} at each horizon: value over 95% interval"
    records = estimate_records(found, evidence.kind)
    return Table(slug, caption, header, tuple(rows), records, notes.all())


def other_gains_table(
    content: ReportContent, evidence: Evidence, cohort: str, slug: str
) -> Table | None:
    """Gains of the candidate over every model but the clinical comparator."""
    found = [
        e
        for e in evidence.find(model=content.candidate, cohort=cohort)
        if e.over not in (None, content.comparator) and e.horizon_months is None
    ]
    if not found:
        return None
    metrics = _ordered({e.metric for e in found})
    notes = Footnotes()
    rows = []
    for other in dict.fromkeys(e.over for e in found if e.over):
        picked = [
            next((e for e in found if (e.metric, e.over) == (m, other)), None) for m in metrics
        ]
        cells = [estimate_cell(e, notes) for e in picked]
        rows.append(Row((Cell(other, describe_inputs(content.study, other)), *cells)))
    labels = [Cell(label_of(m), numeric=True) for m in metrics]
    return Table(
        slug,
        f"‘{content.candidate}’ over each other model on {cohort}",
        (Cell("Compared with"), *labels),
        tuple(rows),
        estimate_records(found, evidence.kind),
        notes.all(),
    )


def risk_group_table(curves: RiskGroupCurves, slug: str) -> Table:
    """Patients, events and event-free survival of each group at the curves' ticks."""
    ticks = [m for m in curves.ticks_months if m > 0]
    rows: list[Row] = []
    records: list[dict[str, Value]] = []
    for group in curves.groups:
        cells = [Cell(group.label, strong=True)]
        cells += [Cell(count(n), numeric=True) for n in (group.n_patients, group.n_events)]
        for month in ticks:
            s, low, high = curve_at(group.months, (group.survival, group.lower, group.upper), month)
            # Where nobody is left event-free, the curve stays at 0 however long one looks.
            followed = group.months[-1] >= month or group.survival[-1] == 0
            text = f"{100 * s:.0f}%" if followed else "not followed"
            below = f"{100 * low:.0f}% to {100 * high:.0f}%" if followed else ""
            cells.append(Cell(text, below, numeric=True))
            records.append(
                {
                    "cohort": curves.cohort,
                    "model": curves.model,
                    "group": group.label,
                    "patients": group.n_patients,
                    "events": group.n_events,
                    "months": month,
                    "event_free": s if followed else None,
                    "lower": low if followed else None,
                    "upper": high if followed else None,
                }
            )
        rows.append(Row(tuple(cells)))
    header = (
        Cell("Risk group"),
        Cell("Patients", numeric=True),
        Cell("Events", numeric=True),
        *(Cell(f"{m:g} mo", numeric=True) for m in ticks),
    )
    caption = f"Event-free patients of {curves.cohort} by risk group (Kaplan-Meier, 95% interval)"
    return Table(slug, caption, header, tuple(rows), tuple(records))


def curve_at(
    times: Sequence[float], curves: Sequence[Sequence[float]], month: float
) -> list[float]:
    """Values of step functions at a month: what was reached at or before it."""
    position = max(sum(time <= month for time in times) - 1, 0)
    return [curve[position] for curve in curves]


def calibration_records(curves: Sequence[CalibrationCurve]) -> tuple[dict[str, Value], ...]:
    """Points and smooth curves of the calibration figures as records."""
    records: list[dict[str, Value]] = []
    for curve in curves:
        base: dict[str, Value] = {
            "cohort": curve.cohort,
            "model": curve.model,
            "horizon_months": curve.horizon_months,
        }
        records += [{**base, "what": "group", **group.model_dump()} for group in curve.groups]
        line = zip(curve.predicted, curve.observed, curve.lower, curve.upper, strict=True)
        names = ("predicted", "observed", "lower", "upper")
        records += [
            {**base, "what": "smooth", **dict(zip(names, point, strict=True))} for point in line
        ]
    return tuple(records)


def risk_group_records(curves: Sequence[RiskGroupCurves]) -> tuple[dict[str, Value], ...]:
    """Steps of the Kaplan-Meier curves as records."""
    return tuple(
        {
            "cohort": item.cohort,
            "model": item.model,
            "group": group.label,
            "months": group.months[i],
            "event_free": group.survival[i],
            "lower": group.lower[i],
            "upper": group.upper[i],
        }
        for item in curves
        for group in item.groups
        for i in range(len(group.months))
    )


def class_records(curves: Sequence[ClassCurves]) -> tuple[dict[str, Value], ...]:
    """Points of the curves of classes as records: both curves, told apart by ``curve``."""
    records: list[dict[str, Value]] = []
    for item in curves:
        base: dict[str, Value] = {"cohort": item.cohort, "model": item.model, "event": item.event}
        for name, x, y in (
            ("roc", item.false_positive_rate, item.true_positive_rate),
            ("precision-recall", item.recall, item.precision),
        ):
            records += [{**base, "curve": name, "x": a, "y": b} for a, b in zip(x, y, strict=True)]
    return tuple(records)


def _label(metric: str, comparator: str | None) -> str:
    return (
        label_of(metric) if metric == base_of(metric) else f"{label_of(metric)} over {comparator}"
    )


def _ordered(metrics: set[str]) -> list[str]:
    """In the order of the table of measures, each followed by its gain, strangers last."""
    order = [name for known in MEASURES for name in (known, gain_of(known))]
    return sorted(metrics, key=lambda m: (order.index(m) if m in order else len(order), m))


def _models(estimates: Sequence[Estimate]) -> list[str]:
    return list(dict.fromkeys(estimate.model for estimate in estimates))


def _pick(
    estimates: Sequence[Estimate], metric: str, model: str, horizon: float | None = None
) -> Estimate | None:
    for e in estimates:
        if (e.metric, e.model, e.horizon_months) == (metric, model, horizon):
            return e
    return None


def _model_row(
    content: ReportContent,
    model: str,
    estimates: Sequence[Estimate | None],
    notes: Footnotes,
    *,
    inputs: bool = True,
) -> Row:
    strong = model == content.candidate
    role = {content.candidate: "candidate", content.comparator: "comparator"}.get(model, "")
    seen = describe_inputs(content.study, model) if inputs else ""
    below = " · ".join(part for part in (role if inputs else "", seen) if part)
    cells = [
        Cell("reference", numeric=True, tone="na")
        if e is None and model == content.comparator
        else estimate_cell(e, notes, strong=strong)
        for e in estimates
    ]
    return Row((Cell(model, below, strong=strong), *cells))
